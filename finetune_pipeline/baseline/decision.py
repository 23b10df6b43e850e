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
   simple model surely learns more from the same rows; or a simple model leads as in 3, but not surely, without such results, or
   fine-tuning was surely ahead in some of them (in all: 6);
   or there are too few rows to decide whether the inputs predict the answers.
6. fine_tune.

:mod:`.ladder_decision` decides with what a pilot or a training on all rows measured besides.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import msgspec

from finetune_pipeline.baseline.good_enough import CLOSES_MOST, Worth, good_enough
from finetune_pipeline.baseline.input_evidence import Learnable
from finetune_pipeline.baseline.ladder import Rows
from finetune_pipeline.baseline.reasons import (
    CallTokens,
    Failures,
    Retrieval,
    best_prompt,
    cost_sentences,
    failure_sentences,
    failures_of,
    goal_of,
    measured_accuracy,
    must_reach_sentences,
    privacy_sentences,
    retrieval_adds,
    retrieval_of,
    simple_sentences,
    tokens_of,
)
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.evaluation.compare import SourceOf, shared_sources
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.metrics import METRICS, Gain, metric_title
from finetune_pipeline.evaluation.predictions import SIMPLE, same_rows
from finetune_pipeline.evaluation.rivals import Baseline, Rival, ScoredBaselines, base_at_its_best, rivals_of
from finetune_pipeline.evaluation.simple_models import BLIND, SIMPLE_MODELS
from finetune_pipeline.evaluation.statistics.multiple_testing import shared_confidence
from finetune_pipeline.evaluation.wording import (
    counted,
    is_interval,
    percent,
    percent_range,
    points,
    points_range,
)
from finetune_pipeline.planning.gate_needs import refusals
from finetune_pipeline.planning.power import Power, PowerPlan
from finetune_pipeline.spec.model import TaskSpec

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
GAINS = Path(__file__).with_name("measured_gains.yaml")
SIMPLE_TOLERANCE = 0.1
"""Tolerance: a measured result applies if its simple model scored at most this much below the simple model here."""
MIN_RESULTS = 3
"""Measured results needed to say that fine-tuning does not surpass a simple model."""


class MeasuredGain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What LoRA gained on a set over the best simple model, on the sealed test.

    Attributes:
        kind: Of the answers (output.kind).
        rows: Of training.
        rival: The best simple model.
        simple, tuned: Their scores in the kind's default metric, in fractions of 1.
        interval: 95%, of the gain. Answers to the same rows are treated as independent, so it is rather too wide.
    """

    task: str
    kind: str
    rows: int
    rival: str
    simple: float
    tuned: float
    interval: tuple[float, float]


class MeasuredGains(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The results of a base model. source: the file of benchmarks/results that has them."""

    source: str
    base_model: str
    results: list[MeasuredGain]


class Advice(Facts, frozen=True, kw_only=True):
    """What to do before any training.

    Attributes:
        decision: A key of DECISIONS.
        reasons: The deciding one first.
        must_reach: The score that a fine-tuned model needs on the test; None if none is enough.
    """

    decision: str
    fine_tune: bool
    sentence: str
    reasons: list[str]
    must_reach: float | None
    failures: Failures
    retrieval: Retrieval | None
    tokens: CallTokens | None


class Prospects(Facts, frozen=True, kw_only=True):
    """Whether the inputs predict the answers, and what the test can show."""

    learnable: Learnable
    power: Power


class Advised(Prospects, frozen=True, kw_only=True):
    """Facts of the step advice. advice_markdown: the advice for Dagster's page."""

    worth_training: Worth
    power: PowerPlan
    advice: Advice
    advice_markdown: str


def advise(
    spec: TaskSpec,
    baseline: Baseline,
    power: PowerPlan,
    rows: Rows,
    counts: Mapping[str, int],
    rival: Rival,
    signal: Learnable,
    sources: SourceOf = None,
) -> Advice:
    """Decide before training, with reasons.

    Args:
        rows: Validation rows by model (prompts, restricted answers, simple models), each in the order of example ids.
        rival: The strongest rival of a fine-tuned model (rivals.strongest_rival).
        sources: The source of each example, by id.
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
        f"There are {counted(counts['train'], 'training example')}. {power.sentence}",
        *must_reach_sentences(spec, rival, power.must_reach),
        *cost_sentences(spec, tokens),
        *privacy_sentences(spec),
    ]
    return Advice(
        decision=decision,
        fine_tune=decision == "fine_tune",
        sentence=f"{DECISIONS[decision]} {why}",
        reasons=reasons,
        must_reach=power.must_reach,
        failures=failures,
        retrieval=retrieval,
        tokens=tokens,
    )


def _lead_of_simple(spec: TaskSpec, baseline: ScoredBaselines, rows: Rows, sources: SourceOf) -> Match | None:
    """Rules 3 (simple) and 5 (pilot): the best simple model that reads the input, if it leads always the commonest answer and the
    base model in each of its modes, and not every measured result speaks for fine-tuning.

    Intervals are corrected for the number of simple models of which this is the best. A lead over the untrained model says
    nothing of the trained one, so it decides only with measured results.
    """
    simple, blind = baseline.simple, [rows[SIMPLE + name] for name in BLIND if SIMPLE + name in rows]
    names = [name for name in simple if name not in BLIND]
    if not names or not blind:
        return None
    name = max(names, key=lambda name: simple[name].rank)
    scores, title = simple[name], SIMPLE_MODELS[name].title
    confidence = shared_confidence(spec.gates.confidence, len(names))

    def leads_over(others: Iterable[Sequence[Row]]) -> list[Gain]:
        pairs = [same_rows(other, rows[SIMPLE + name]) for other in others]
        return [
            METRICS[spec.metric].gain(before, after, spec.output, confidence, shared_sources(before, sources))
            for before, after in pairs
            if before
        ]

    over_base = leads_over(base_at_its_best(rows, spec.output, baseline.best).answers.values())
    over_blind = leads_over(blind)
    if scores.accuracy < 0.5 or not over_base or any(lead.gain <= 0 for lead in over_blind):
        return None
    comparable = [result for result in measured_gains(spec) if result.simple >= scores.rank - SIMPLE_TOLERANCE]
    ahead = [result for result in comparable if result.interval[0] > 0]
    least = min(over_base, key=lambda lead: lead.gain)
    if least.gain <= 0 or (comparable and ahead == comparable):
        return None
    leads = (
        f"{title}, made in seconds from the same rows, is {measured_accuracy(scores)} and leads the base model with its "
        f"best prompt, by {points(least.gain)} points ({points_range(least.interval)})"
    )
    rivals = (("the base model", over_base), ("always the commonest answer", over_blind))
    unsure = [rival for rival, gains in rivals if not all(gain.surely_above() for gain in gains)]
    if unsure:
        return "pilot", f"{leads}. It is not surely better than {' and '.join(unsure)}."
    if len(comparable) < MIN_RESULTS:
        return "pilot", f"{leads}. What training adds to that is unknown."
    measured = f"{len(comparable)} results measured with this base model on answers of this kind ({spec.output.kind})"
    if ahead:
        shown = "shows" if len(ahead) == 1 else "show"
        some_ahead = f"{len(ahead)} of {measured} {shown} a fine-tuned model surely ahead of a simple model this good"
        return "pilot", f"{leads}. {some_ahead}, the others do not."
    return "simple", f"{leads}. None of {measured} shows a fine-tuned model surely ahead of a simple model this good."


def measured_gains(spec: TaskSpec) -> list[MeasuredGain]:
    """Return this project's results of fine-tuning this base model for the same kind of answer."""
    measured = _measured_gains()
    is_same_model = measured.base_model == spec.base_model
    return [result for result in measured.results if is_same_model and result.kind == spec.output.kind]


@cache
def _measured_gains() -> MeasuredGains:
    return msgspec.yaml.decode(GAINS.read_bytes(), type=MeasuredGains)


def _no_room(spec: TaskSpec, power: PowerPlan, rival: Rival, rows: Rows, sources: SourceOf) -> Match | None:
    """Rules 2 and 4: the wanted gain over the strongest rival is impossible, surely or as far as these rows show. The interval is
    corrected for the number of rivals of which this is the strongest."""
    if power.rows_needed is not None or spec.by_coverage:  # a rival that answers all rows by itself is an obstacle
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


def _test_too_small(spec: TaskSpec, power: PowerPlan) -> Match | None:
    """Rule 4: collect, because of the test: a gate would refuse every candidate, or the gain cannot be shown."""
    if power.obstacles:
        refusing = " ".join(refusals(spec, power.obstacles))
        return "collect", f"As far as these rows show, nothing that is trained could be promoted. {refusing}"
    if power.rows_needed is not None and power.detectable_gain is None:
        return "collect", f"{counted(power.test_rows, 'test row')} can show no gain that there is room for."
    if not power.enough and spec.gates.enough_test_rows == "block":
        return "collect", f"The test cannot show the wanted gain. {power.sentence}"
    return None


def _retrieval_helps(spec: TaskSpec, baseline: ScoredBaselines, retrieval: Retrieval | None) -> Match | None:
    """Rule 5: a pilot has to beat the nearest examples, because they close most of the gap."""
    if retrieval is None or not is_interval(retrieval.interval) or retrieval.interval[0] <= 0:
        return None
    upper_bound = baseline.prompts[retrieval.prompt].interval[1]
    simple_learns_more = any(scores.interval[0] > upper_bound for scores in baseline.simple.values())
    in_form = retrieval.valid_share is not None and retrieval.valid_share >= spec.gates.min_valid_share
    if simple_learns_more or not in_form or (retrieval.closes or 0.0) < CLOSES_MOST:
        return None
    return "pilot", (
        f"{retrieval_adds(retrieval)}, which closes {percent(retrieval.closes)} of the gap "
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
