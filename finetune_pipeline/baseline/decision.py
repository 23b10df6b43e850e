"""Decides from measured rivals what to do: prompt, retrieve, use a simple model, collect data, or fine-tune.

:func:`advise` decides before any training, from the baseline's scores on validation. The first rule that applies decides:

1. no_signal: the inputs do not predict the answers (baseline.input_evidence).
2. prompt, retrieve, simple: a prompt, its answers restricted to the allowed forms, or a simple model surely reach
   baseline.ceiling, or leave surely less than gates.wanted_gain to be gained.
3. simple: a simple model surely leads the base model at its best and always the commonest answer, is right on most rows, and
   MIN_RESULTS or more results of this project with the same base model on the same kind of answer (GAINS) show no fine-tuned
   model surely ahead of one as good.
4. collect: a gate would refuse every candidate on this test; or the wanted gain is impossible over a rival that is not surely
   good enough; or the test cannot show the wanted gain, and the spec says that this blocks.
5. pilot: showing the nearest training examples surely helps, closes most of the gap to the ceiling, keeps the form, and no
   simple model surely learns more from the same rows; or a simple model leads as in 3, but not surely or without such results;
   or there are too few rows to decide whether the inputs predict the answers.
6. fine_tune.

:func:`ladder` decides with what a pilot or a training on all rows measured besides.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

from finetune_pipeline.baseline.input_evidence import Learnable
from finetune_pipeline.baseline.ladder import Answered, Ladder, Scored, Terms, score_rungs
from finetune_pipeline.baseline.learning_curve import Extrapolation, Point, extrapolate
from finetune_pipeline.baseline.reasons import (
    best_prompt,
    cost_sentences,
    failure_sentences,
    failures_of,
    flips,
    goal_of,
    ladder_reasons,
    measured_accuracy,
    must_reach_sentences,
    privacy_sentences,
    reaches,
    retrieval_adds,
    retrieval_of,
    simple_sentences,
    tokens_of,
)
from finetune_pipeline.evaluation.compare import SourceOf, shared_sources
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.metrics import METRICS, Gain, metric_title
from finetune_pipeline.evaluation.metrics.exact import Exact
from finetune_pipeline.evaluation.predictions import SIMPLE, prompts_of, same_rows
from finetune_pipeline.evaluation.prompts import DOCUMENTS, EMBEDDED, NEAREST
from finetune_pipeline.evaluation.rivals import (
    Rival,
    base_at_its_best,
    rank_of,
    restricted_rows,
    rivals_of,
    simple_rows,
)
from finetune_pipeline.evaluation.simple_models import BLIND, SIMPLE_MODELS
from finetune_pipeline.evaluation.statistics.multiple_testing import shared_confidence, surely_at_least
from finetune_pipeline.evaluation.statistics.proportions import Interval
from finetune_pipeline.evaluation.wording import (
    counted,
    inside,
    is_interval,
    is_number,
    percent,
    percent_range,
    points,
    points_range,
    prompt_name,
)
from finetune_pipeline.planning.gate_needs import Obstacle
from finetune_pipeline.spec.model import TaskSpec

Rows = Mapping[str, Sequence[Row]]
Match = tuple[str, str]
"""A decision (a key of DECISIONS), and a sentence with the reason."""
DECISIONS = {
    "no_signal": "No: the inputs do not predict the answers.",
    "prompt": "No: prompt the model.",
    "retrieve": "No: show the model the nearest examples.",
    "documents": "No: show the model the passages of your documents.",
    "simple": "No: use a simple model instead of a language model.",
    "api": "No: ask the API model.",
    "larger_model": "No: use a larger model.",
    "collect": "Not yet: collect data first.",
    "pilot": "Uncertain: train on a part of the rows first (finetune advise --measure).",
    "undecided": "Not sure yet.",
    "fine_tune": "Yes: fine-tune.",
}
RIGHT = Exact()
CLOSES_MOST = 0.5
"""Restricted answers or the nearest examples close most of the gap to the ceiling if they close at least this share."""
GAINS = Path(__file__).with_name("measured_gains.yaml")
SIMPLE_TOLERANCE = 0.1
"""Tolerance: a measured result applies if its simple model scored at most this much below the simple model here."""
MIN_RESULTS = 3
"""Measured results needed to say that fine-tuning does not surpass a simple model."""
MOSTLY_WRONG = 0.5
"""If nothing here reaches this share of correct answers and training adds little, the answer is a larger model."""


def sure_of(spec: TaskSpec, alternatives: Sequence[Sequence[Row]], least: float, sources: SourceOf = None) -> list[int]:
    """The indices of those alternatives whose rows are surely good enough (:func:`_score_interval` at or above `least`), corrected
    for the number of alternatives looked at (multiple_testing.surely_at_least)."""
    intervals = [partial(_score_interval, spec, rows, sources) for rows in alternatives]
    return surely_at_least(intervals, least, spec.gates.confidence)


def _score_interval(spec: TaskSpec, rows: Sequence[Row], sources: SourceOf, confidence: float) -> Interval | None:
    """The lower of two intervals: of the share of right answers, and of the rank in the metric that decides. With rare labels, the
    commonest answer is mostly right and has a low macro-F1."""
    metric, clusters = METRICS[spec.metric], shared_sources(rows, sources)
    right = RIGHT.interval(rows, spec.output, confidence, clusters)
    interval = right if metric.right_or_wrong else metric.interval(rows, spec.output, confidence, clusters)
    if interval is None:
        return None
    low, high = sorted(map(metric.rank, interval))
    return min(low, right[0]), min(high, right[1])


def good_enough(
    spec: TaskSpec, baseline: Mapping[str, Any], rows: Rows, least: float, sources: SourceOf = None
) -> list[tuple[str, str, str]]:
    """Everything that is surely right on at least a share `least` of the rows, and in the metric that decides as good, as (prompt,
    retrieve, documents or simple; name; sentence for people): the best prompt first, then restricted answers, then simple
    models, best first."""
    prompts, best, simple = baseline["prompts"], baseline["best"], simple_rows(rows)
    names = prompts_of(rows)
    restricted = {name: answers for name in names if (answers := restricted_rows(rows, name, spec.output))}
    alternatives = [
        *(("prompt", name, rows[name]) for name in names),
        *(("restricted", name, answers) for name, answers in restricted.items()),
        *(("simple", name, answers) for name, answers in simple.items()),
    ]
    named = sure_of(spec, [answers for _, _, answers in alternatives], least, sources)
    sure = {alternatives[i][:2] for i in named}
    above = f"surely at or above {percent(least)}"
    enough = []
    if ("prompt", best) in sure:
        sentence = f"Prompting is enough: {prompt_name(best)} is {measured_accuracy(prompts[best])}, {above}."
        kinds = {NEAREST: "retrieve", EMBEDDED: "retrieve", DOCUMENTS: "documents"}
        enough.append((next((kind for end, kind in kinds.items() if best.endswith(end)), "prompt"), best, sentence))
    for name in restricted:
        if ("restricted", name) in sure:
            sentence = (
                f"Restrict the answers to the allowed forms: the base model, {prompt_name(name)}, is then "
                f"{measured_accuracy(prompts[name]['restricted'])}, {above}. It knows the task but does not keep to the form."
            )
            enough.append(("prompt", f"{name}, restricted", sentence))
    for name in sorted(simple, key=lambda name: -baseline["simple"][name]["accuracy"]):
        if ("simple", name) in sure:
            sentence = (
                f"A language model is not needed: {SIMPLE_MODELS[name].title}, made in seconds from the same rows, is "
                f"{measured_accuracy(baseline['simple'][name])}, {above}. `finetune export TASK --simple --to DIR` writes it."
            )
            enough.append(("simple", name, sentence))
    return enough


def worth_training(spec: TaskSpec, baseline: Mapping[str, Any], rows: Rows, sources: SourceOf = None) -> dict[str, Any]:
    """Judge the facts of :func:`finetune_pipeline.evaluation.rivals.score_baselines`, and the rows that they score.

    Training is not worth it if anything simpler is surely at or above baseline.ceiling (:func:`good_enough`).

    Returns:
        {passed, reason (a sentence for people), best (prompt), enough: name of the alternative that is good enough, or null}.
    """
    ceiling, best = spec.baseline.ceiling, baseline["best"]
    for _, name, sentence in good_enough(spec, baseline, rows, ceiling, sources):
        return {"passed": False, "reason": sentence, "best": best, "enough": name}
    scores = baseline["prompts"][best]
    reason = (
        f"Training may pay: the best prompt, {prompt_name(best)}, is {measured_accuracy(scores)}; the ceiling above which it "
        f"would not is {percent(ceiling)}."
    )
    restricted = {name: r["accuracy"] for name, s in baseline["prompts"].items() if (r := s.get("restricted"))}
    prompt = max(restricted, key=lambda name: restricted[name], default=best)
    gap, added = ceiling - scores["accuracy"], restricted.get(prompt, 0.0) - scores["accuracy"]
    if 0 < CLOSES_MOST * gap <= added:
        reason += (
            f" But try restricting the answers first: the same base model, its answers restricted to the allowed forms, is "
            f"{percent(restricted[prompt])} right ({prompt_name(prompt)}), which closes {percent(min(1.0, added / gap))} of "
            "the gap to the ceiling without any training."
        )
    return {"passed": True, "reason": reason, "best": best, "enough": None}


def advise(
    spec: TaskSpec,
    baseline: Mapping[str, Any],
    power: Mapping[str, Any],
    rows: Rows,
    counts: Mapping[str, int],
    rival: Rival,
    signal: Learnable,
    sources: SourceOf = None,
) -> dict[str, Any]:
    """Decide before training, with reasons.

    Args:
        baseline: Facts of few_shot_baseline (rivals.score_baselines, prompt_details).
        rows: Validation rows by model (prompts, restricted answers, simple models), each in the order of example ids.
        rival: The strongest rival of a fine-tuned model (rivals.strongest_rival).
        sources: The source of each example, by id.

    Returns:
        {decision (a key of DECISIONS), fine_tune, sentence, reasons (the deciding one first), must_reach (score a
        fine-tuned model needs on the test, or null), failures (failures_of), retrieval (retrieval_of, or null), tokens
        (tokens_of)}.
    """
    failures, retrieval = failures_of(spec, baseline, rows), retrieval_of(spec, baseline, rows, sources)
    tokens = tokens_of(baseline)
    least = min(spec.baseline.ceiling, 1 - spec.gates.wanted_gain)
    lead = _lead_of_simple(spec, baseline, rows, sources)
    matches = (
        ("no_signal", signal.sentence) if signal.status == "not_shown" else None,
        *((kind, sentence) for kind, _, sentence in good_enough(spec, baseline, rows, least, sources)),  # prompts first
        lead if lead and lead[0] == "simple" else None,
        _no_room(spec, power, rival, rows, sources),
        _test_too_small(spec, power),
        _retrieval_helps(spec, baseline, retrieval),
        lead,
        ("pilot", signal.sentence) if signal.status == "too_few_rows" else None,
        _training_may_pay(spec, rival),
    )
    decision, why = next(match for match in matches if match)
    next_step = f"`finetune advise {spec.name} --measure` trains on parts of the rows"
    reasons = [
        why,
        *([f"Next: {next_step} and says what training on all of them should reach."] if decision == "pilot" else []),
        *([] if why == signal.sentence else [signal.sentence]),
        best_prompt(spec, baseline),
        *failure_sentences(failures, retrieval),
        *simple_sentences(spec, baseline, rows, sources),
        *([] if retrieval is None or retrieval_adds(retrieval) in why else [f"{retrieval_adds(retrieval)}."]),
        f"There are {counted(counts['train'], 'training example')}. {power['sentence']}",
        *must_reach_sentences(spec, rival, power["must_reach"]),
        *cost_sentences(spec, tokens),
        *privacy_sentences(spec),
    ]
    return {
        "decision": decision,
        "fine_tune": decision == "fine_tune",
        "sentence": f"{DECISIONS[decision]} {why}",
        "reasons": reasons,
        "must_reach": power["must_reach"],
        "failures": failures,
        "retrieval": retrieval,
        "tokens": tokens,
    }


def _lead_of_simple(spec: TaskSpec, baseline: Mapping[str, Any], rows: Rows, sources: SourceOf) -> Match | None:
    """Rules 3 (simple) and 5 (pilot): the best simple model that reads the input, if it surely beats always the commonest answer
    and leads the base model in each of its modes, and no measured result speaks for fine-tuning.

    Intervals are corrected for the number of simple models of which this is the best. A lead over the untrained model says
    nothing of the trained one, so it decides only with measured results.
    """
    simple, blind = baseline.get("simple") or {}, [rows[SIMPLE + name] for name in BLIND if SIMPLE + name in rows]
    names = [name for name in simple if name not in BLIND]
    if not names or not blind:
        return None
    name = max(names, key=lambda name: rank_of(simple[name]))
    scores, title = simple[name], SIMPLE_MODELS[name].title
    confidence = shared_confidence(spec.gates.confidence, len(names))

    def leads_over(others: Iterable[Sequence[Row]]) -> list[Gain]:
        pairs = [same_rows(other, rows[SIMPLE + name]) for other in others]
        return [
            METRICS[spec.metric].gain(before, after, spec.output, confidence, shared_sources(before, sources))
            for before, after in pairs
            if before
        ]

    over_base = leads_over(base_at_its_best(rows, spec.output, baseline["best"]).answers.values())
    if scores["accuracy"] < 0.5 or not over_base or not all(lead.surely_above() for lead in leads_over(blind)):
        return None
    comparable = [result for result in measured_gains(spec) if result["simple"] >= rank_of(scores) - SIMPLE_TOLERANCE]
    least = min(over_base, key=lambda lead: lead.gain)
    if least.gain <= 0 or any(result["interval"][0] > 0 for result in comparable):
        return None
    leads = (
        f"{title}, made in seconds from the same rows, is {measured_accuracy(scores)} and leads the base model with its "
        f"best prompt, by {points(least.gain)} points ({points_range(least.interval)})"
    )
    if not all(lead.surely_above() for lead in over_base):
        return "pilot", f"{leads}, which is not sure."
    if len(comparable) < MIN_RESULTS:
        return "pilot", f"{leads}. What training adds to that is unknown."
    none_ahead = (
        f"None of {len(comparable)} results measured with this base model on answers of this kind ({spec.output.kind})"
    )
    return "simple", f"{leads}. {none_ahead} shows a fine-tuned model surely ahead of a simple model this good."


def measured_gains(spec: TaskSpec) -> list[dict[str, Any]]:
    """This project's results for fine-tuning this base model against the best simple model, on the same kind of answer: {task,
    kind, rows, simple, tuned, interval (of the gain), source}."""
    measured = _measured_gains()
    is_same_model = measured["base_model"] == spec.base_model
    return [result for result in measured["results"] if is_same_model and result["kind"] == spec.output.kind]


@cache
def _measured_gains() -> dict[str, Any]:
    return dict(yaml.safe_load(GAINS.read_text("utf-8")))


def _no_room(spec: TaskSpec, power: Mapping[str, Any], rival: Rival, rows: Rows, sources: SourceOf) -> Match | None:
    """Rules 2 and 4: the wanted gain over the strongest rival is impossible, surely or as far as these rows show. The interval is
    corrected for the number of rivals of which this is the strongest."""
    if power["rows_needed"] is not None:
        return None
    metric, clusters = METRICS[spec.metric], shared_sources(rival.rows, sources)
    confidence = shared_confidence(spec.gates.confidence, len(rivals_of(spec, rows)))
    interval = metric.interval(rival.rows, spec.output, confidence, clusters)
    title = f"{rival.title[0].upper()}{rival.title[1:]}"
    reached = f"{title} reaches {percent(rival.value)} in {metric_title(spec.metric)} on validation"
    reached += f" ({percent_range(interval)})" if interval else ""
    impossible = f"a gain of {points(spec.gates.wanted_gain)} points (gates.wanted_gain) over it is impossible"
    if interval and min(map(metric.rank, interval)) >= 1 - spec.gates.wanted_gain:
        return "simple" if "beats_simple" in rival.gates else "prompt", f"{reached}, so {impossible}."
    doubt = f"{counted(len(rival.rows), 'row')} do not show surely that it is good enough"
    return "collect", f"{reached}: {impossible}, but {doubt}. More validation rows decide."


def _test_too_small(spec: TaskSpec, power: Mapping[str, Any]) -> Match | None:
    """Rule 4: collect, because of the test: a gate would refuse every candidate, or the gain cannot be shown."""
    if power["obstacles"]:
        refusing = " ".join(str(Obstacle(**obstacle)) for obstacle in power["obstacles"])
        return "collect", f"Nothing that is trained could be promoted. {refusing}"
    if power["rows_needed"] is not None and power["detectable_gain"] is None:
        return "collect", f"{counted(power['test_rows'], 'test row')} can show no gain that there is room for."
    if not power["enough"] and spec.gates.enough_test_rows == "block":
        return "collect", f"The test cannot show the wanted gain. {power['sentence']}"
    return None


def _retrieval_helps(spec: TaskSpec, baseline: Mapping[str, Any], retrieval: Mapping[str, Any] | None) -> Match | None:
    """Rule 5: a pilot has to beat the nearest examples, because they close most of the gap."""
    if retrieval is None or not is_interval(retrieval["interval"]) or retrieval["interval"][0] <= 0:
        return None
    upper_bound = baseline["prompts"][retrieval["prompt"]]["interval"][1]
    simple_learns_more = any(scores["interval"][0] > upper_bound for scores in (baseline.get("simple") or {}).values())
    in_form = is_number(retrieval["valid_share"]) and retrieval["valid_share"] >= spec.gates.min_valid_share
    if simple_learns_more or not in_form or (retrieval["closes"] or 0.0) < CLOSES_MOST:
        return None
    return "pilot", (
        f"{retrieval_adds(retrieval)}, which closes {percent(retrieval['closes'])} of the gap "
        f"to {percent(METRICS[spec.metric].rank(goal_of(spec)))}: knowledge is missing, and it can be looked up. Build "
        "that first; what training adds to it is unknown."
    )


def _training_may_pay(spec: TaskSpec, rival: Rival) -> Match:
    """Rule 6."""
    room = points(1 - METRICS[spec.metric].rank(rival.value), sign=False)
    remaining = f"{room} points of {metric_title(spec.metric)} remain to be gained over it"
    return "fine_tune", (
        f"Nothing simpler does the task: the best of it, {rival.title}, reaches {percent(rival.value)}; {remaining}."
    )


def ladder(
    spec: TaskSpec,
    answered: Sequence[Answered],
    terms: Terms,
    *,
    learnable: bool = True,
    points: Sequence[Point] = (),
    pilot_rows: Mapping[float, Sequence[Row]] | None = None,
    expected: Extrapolation | None = None,
    skipped: Mapping[str, str] | None = None,
    train_rows: int = 0,
    sources: SourceOf = None,
) -> Ladder:
    """Score the rungs, and decide.

    Args:
        answered: From :func:`.ladder.rung_answers`, followed by the tuned model if it answered the same rows.
        learnable: Whether the inputs predict the answers (baseline.input_evidence).
        points, pilot_rows: The pilot's trainings, and their answers by share of the training rows.
        expected: The extrapolation if `pilot_rows` are missing; else computed from them.
    """
    scored, trained = score_rungs(spec, answered, terms, sources), pilot_rows or {}
    if trained:
        expected = extrapolate(spec, trained, scored.rival_rows, shared_sources(scored.rival_rows, sources))
    decision, sentence = _decide_ladder(spec, answered, scored, learnable, trained, expected, sources)
    return Ladder(
        metric=spec.metric,
        rows=len(answered[0].rows),
        confidence=spec.gates.confidence,
        rungs=scored.rungs,
        points=list(points),
        expected=expected,
        stands=scored.stands.name,
        decision=decision,
        sentence=f"{DECISIONS[decision]} {sentence}",
        reasons=ladder_reasons(scored.rungs, expected, points),
        flips=flips(spec, decision, scored, expected, terms, train_rows, trained),
        skipped=dict(skipped or {}),
    )


def enough_rungs(spec: TaskSpec, answered: Sequence[Answered], sources: SourceOf = None) -> list[Answered]:
    """The rungs without training that are surely at or above baseline.ceiling, simplest first (:func:`sure_of`)."""
    untrained = [answers for answers in answered if answers.kind != "tuned"]
    return [untrained[i] for i in sure_of(spec, [a.rows for a in untrained], spec.baseline.ceiling, sources)]


def no_pilot_needed(spec: TaskSpec, answered: Sequence[Answered], sources: SourceOf = None) -> str:
    """Return why: a rung significantly exceeds baseline.ceiling, and no limit of cost or latency can exclude it. Else empty."""
    for rung in () if spec.advise.limited else enough_rungs(spec, answered, sources):
        return f"{rung.title} significantly exceeds baseline.ceiling"
    return ""


def conclusive(
    spec: TaskSpec,
    answered: Sequence[Answered],
    rival: Sequence[Row],
    by_share: Mapping[float, Sequence[Row]],
    sources: SourceOf = None,
) -> str:
    """Return why a pilot's curve needs no more points; empty if it does, or if limits of cost or latency may exclude rungs later.

    Args:
        rival: The rows of the best rung without training.
        by_share: The rows of the pilot's trainings, by share of the training rows.
    """
    if spec.advise.limited:
        return ""
    if leads(spec, answered, rival, by_share[max(by_share)], sources):
        return "it already beats the best simpler rung significantly"
    expected = extrapolate(spec, by_share, rival, shared_sources(rival, sources))
    if expected is not None and expected.gain_interval[1] < 0:
        return "even with all rows it would not reach the best simpler rung"
    return ""


def leads(
    spec: TaskSpec, answered: Sequence[Answered], best: Sequence[Row], trained: Sequence[Row], sources: SourceOf = None
) -> Gain | None:
    """The gain of a pilot training over the best rung; None if it is not significant among all comparisons."""
    comparisons = len(answered) + len(spec.ladder.pilot) - 1
    confidence = shared_confidence(spec.gates.confidence, comparisons)
    gain = METRICS[spec.metric].gain(best, trained, spec.output, confidence, shared_sources(trained, sources))
    return gain if gain.surely_above() else None


def _decide_ladder(
    spec: TaskSpec,
    answered: Sequence[Answered],
    scored: Scored,
    learnable: bool,
    pilot_rows: Mapping[float, Sequence[Row]],
    expected: Extrapolation | None,
    sources: SourceOf,
) -> Match:
    """Decide from the scored rungs, the pilot's answers by share of the training rows, and their extrapolation to all rows."""
    stands, rival = scored.stands, scored.rival
    reached = reaches(spec, stands)
    if stands.excluded:
        return "undecided", "Every rung is out of the question."
    if stands.kind == "tuned":
        lead = f"{points(stands.gain)} points, {points_range(stands.gain_interval)}"
        return "fine_tune", f"{reached}, surely ahead of everything simpler ({lead})."
    if not learnable:
        return "no_signal", f"{reached}, and nothing simple surely beats answering without the input."
    enough = {answers.name for answers in enough_rungs(spec, answered, sources)}
    for rung in scored.rungs:
        if not rung.excluded and rung.name in enough:
            ceiling = percent(spec.baseline.ceiling)
            return rung.kind, f"{reaches(spec, rung)}, surely at or above the {ceiling} of baseline.ceiling."
    if any(answers.kind == "tuned" for answers in answered):
        rival_title = "it" if rival == stands else inside(rival.title)
        return stands.kind, f"{reached}, and the tuned model is not surely ahead of {rival_title}."
    for share, rows in sorted(pilot_rows.items()):
        if gain := leads(spec, answered, scored.rival_rows, rows, sources):
            return "fine_tune", (
                f"Trained on {percent(share)} of the rows the model already leads {inside(rival.title)}, the best simpler way, by "
                f"{points(gain.gain)} points ({points_range(gain.interval)})."
            )
    if rival != stands:
        reached = reaches(spec, rival) + f", not surely more than {inside(stands.title)}"
    if expected is None:
        pilot = "from this pilot" if pilot_rows else "without a pilot"
        return "undecided", f"{reached}; {pilot} it is unknown what training would add."
    outlook = f"training on all rows should change that by {points(expected.gain)} points ({points_range(expected.gain_interval)})"
    if expected.gain_interval[0] > 0:
        return "fine_tune", f"{reached}, and {outlook}."
    rank = METRICS[spec.metric].rank
    rival_interval = rival.interval or (0.0, 1.0)  # unknown
    if max(map(rank, (*rival_interval, *expected.interval))) < MOSTLY_WRONG:
        return "larger_model", f"{reached}, which is mostly wrong, and {outlook}: this model cannot do the task."
    if expected.gain_interval[1] < spec.gates.wanted_gain:
        return stands.kind, f"{reached}, and {outlook}, less than gates.wanted_gain."
    return "undecided", f"{reached}, and {outlook}: only training on all rows decides (finetune run {spec.name})."
