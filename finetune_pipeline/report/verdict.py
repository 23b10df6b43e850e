"""Writes the verdict on a candidate, the section on its gates, and the next steps."""

from collections import Counter
from collections.abc import Mapping, Sequence

from finetune_pipeline.evaluation.gates import GateResult, verdict
from finetune_pipeline.evaluation.gates.beats_simple import tied_with
from finetune_pipeline.evaluation.metrics import METRICS, is_right_or_wrong, metric_title
from finetune_pipeline.evaluation.predictions import SIMPLE
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.rivals import MODE_TITLES
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.wording import (
    NOTHING,
    counted,
    inside,
    level,
    number,
    percent,
    points,
    points_range,
    prompt_name,
)
from finetune_pipeline.report.blocks import Answer, Answers, Blocks, Verdict
from finetune_pipeline.report.failures import group_title
from finetune_pipeline.training.history import MUCH_RISE

MOST_OF_GAIN = 0.5
"""Share of the gain from which constrained decoding of the base model counts as giving most of it."""
SHOWN_GROUPS = 3
ANSWERS = {"passed": "yes", "failed": "no", "warned": "warns", "not_asked": "not asked"}
_STATUS = {"promote": "passed", "use_simple": "warned", "refuse": "failed"}
KNOWN = "known"
"""The decision on a model that was promoted earlier: none."""
SOUND = ("promote", KNOWN)
"""Decisions that refuse nothing: exit code 0."""


def decision_on(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> str:
    """Return the decision of the gates, or KNOWN if nothing is decided."""
    return KNOWN if evaluation.promoted else verdict(gates)


def page_verdict(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> Verdict:
    decision, loosened = verdict(gates), evaluation.loosened
    ship = "Ship it, by loosened gates." if loosened.thresholds else "Ship it."
    answers = {
        "promote": "Ship it only if you accept the loosened gates." if loosened.held_back_by else ship,
        "use_simple": f"Do not ship it: use {inside(_best_simple(evaluation))}.",
        "refuse": "Do not ship it.",
    }
    known = "It serves already." if evaluation.promoted and evaluation.promoted.serves else "Nothing new."
    status = "warned" if loosened.held_back_by and decision == "promote" else _STATUS[decision]
    return Verdict(
        status if decision == "promote" or not evaluation.promoted else "warned",
        known if evaluation.promoted else answers[decision],
        " ".join(verdict_sentences(evaluation, gates)),
        caveats(evaluation),
        next_steps=next_steps(evaluation, gates),
        facts=_facts(evaluation),
    )


def _facts(evaluation: EvaluationResult) -> list[tuple[str, str]]:
    """Return when the candidate answered the sealed test, which model it is, and its training and test data."""
    task, versions, splits = evaluation.task, evaluation.versions, evaluation.data.get("splits")
    candidate, trained = versions.get("merged_model"), versions.get("adapter")
    opening_times = [entry.get("time") for entry in evaluation.seal.openings if entry.get("candidate") == trained]
    rows = [f"{number(split_size(counts))} {name}" for name, counts in splits.counts.items()] if splits else []
    return [
        ("Date", str(opening_times[-1])[:10] if opening_times else NOTHING),
        ("Model", f"{task.base_model}, {task.method}, version {candidate or NOTHING}"),
        ("Data", f"version {versions.get('splits') or NOTHING}{': ' if rows else ''}{', '.join(rows)} rows"),
    ]


def split_size(rows: int | Mapping[str, int | None] | None) -> int:
    """Return the number of rows of a split, given as a total or by label; 0 if unknown."""
    if isinstance(rows, Mapping):
        return sum(count or 0 for count in rows.values())
    return rows or 0


def verdict_sentences(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> tuple[str, str]:
    """Return the verdict in a few words (`No gate failed: …`) with loosened gates, and the sentence with the gain and its
    interval."""
    comparison, scores = evaluation.comparison, evaluation.scores["candidate"]
    best = f"the base model with its best prompt ({prompt_name(evaluation.baseline.best)})"
    best += MODE_TITLES[evaluation.base_at_its_best.mode]
    reached = f"reaches {metric_title(evaluation.metric)} {points(scores.primary.value, sign=False)} on"
    if is_right_or_wrong(evaluation.metric):
        reached = f"is right on {percent(scores.accuracy)} of"
    sentence = (
        f"The fine-tuned model {reached} {counted(comparison.n, 'sealed row')}, {_difference(comparison.gain)} {best}; the "
        f"{level(evaluation.confidence)} interval of the gain is {points_range(comparison.interval)} points."
    )
    return verdict_answer(evaluation, gates) + _loosened_sentences(evaluation), sentence


def verdict_answer(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> str:
    """Return the verdict as a sentence: promoted, beaten or tied by a simple model, or refused and by which gates."""
    answer = _gates_answer(evaluation, gates)
    if evaluation.promoted is None:
        return f"{_forgotten_champion(evaluation)}{answer}"
    number, name = evaluation.promoted.model_version, evaluation.task.name
    known = f"This model is the champion already (version {number}), so nothing is promoted or refused."
    if not evaluation.promoted.serves:
        known = (
            f"This model is version {number} already, which was champion before, so nothing is promoted or refused: only "
            f"`finetune rollback {name}` returns to the champion before the present one."
        )
    return f"{known} Judged by the present settings: {inside(answer)}"


def _loosened_sentences(evaluation: EvaluationResult) -> str:
    """Return which thresholds are looser than their defaults, and which gates would not pass by these; empty if none is."""
    thresholds, gates = evaluation.loosened.thresholds, [gate.name for gate in evaluation.loosened.held_back_by]
    if not thresholds:
        return ""
    verb = "does" if len(gates) == 1 else "do"
    held_back = f" By the defaults {in_words(gates)} {verb} not pass." if gates else ""
    return f" Looser than the default: {', '.join(thresholds)}.{held_back}"


def _forgotten_champion(evaluation: EvaluationResult) -> str:
    if not evaluation.champion_forgotten:
        return ""
    margin = (
        points(-(evaluation.decisions.champion.margin or 0.0), sign=False) if evaluation.decisions.champion else NOTHING
    )
    return (
        f"The champion was trained on forgotten rows, so a candidate replaces it unless it surely loses more than {margin} "
        "points (gates.champion_margin). "
    )


def _gates_answer(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> str:
    failed, decision = [gate.name for gate in gates if not gate.passed], verdict(gates)
    titles = [inside(title) for title in tied_with(evaluation)]
    tied = in_words(titles)
    if decision == "promote":
        tie = f" It ties with {tied}, which gates.simple: not_worse accepts." if tied else ""
        return f"No gate failed: {gate_counts(gates)}.{tie}"
    if decision == "use_simple":
        instead = "the best of them" if len(titles) > 1 else "that"
        beaten = f"Better than prompting, but not significantly better than {tied or 'a simple model'}"
        return f"{beaten}: use {instead}, or continue training."
    if not failed:
        return "Refused: no gate was checked."
    refused = "It would be refused by" if evaluation.promoted else "Refused by"
    return f"{refused} {in_words(failed)}: {gate_counts(gates)}."


def gate_counts(gates: Sequence[GateResult]) -> str:
    """Return counts such as `7 passed, 1 failed, 6 not asked`; statuses without gates are left out."""
    counts = Counter[str](gate.status for gate in gates)
    return ", ".join(f"{counts[status]} {status.replace('_', ' ')}" for status in ANSWERS if counts[status])


def _difference(gain: float | None) -> str:
    if gain is None:
        return "an unknown distance from"
    if round(1000 * gain) == 0:
        return "as often as" if gain == 0 else "about as often as"
    return f"{abs(100 * gain):.1f} points {'more' if gain > 0 else 'less'} than"


def in_words(names: Sequence[str]) -> str:
    """Join names as `a`, `a and b` or `a, b and c`; empty without names."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def caveats(evaluation: EvaluationResult) -> list[str]:
    """Return the sentences directly below the verdict: on the champion, simple models that are not beaten or closest, gates that
    pass only by looser thresholds, and gains mostly in form."""
    sentences = []
    if champion := evaluation.comparisons.get("champion"):
        gain = f"{points(champion.gain)} points ({points_range(champion.interval)})"
        learned = evaluation.champion_learned
        rows = f", on the {champion.n} test rows that it was not trained on; {learned} were left out" if learned else ""
        sentences.append(f"Against the champion in service: {gain}{rows}.")
    for name, model in SIMPLE_MODELS.items():
        simple = evaluation.comparisons.get(f"{SIMPLE}{name}")
        if not simple or simple.interval is None or simple.interval[0] > 0:
            continue
        claim = "is not significantly worse; it is made in seconds"
        if simple.interval[1] < 0:
            claim = "is made in seconds and is significantly better"
        gain = f"{points(simple.gain)} points ({points_range(simple.interval)})"
        sentences.append(f"{model.title} {claim}: the fine-tuned model's gain over it is {gain}.")
    sentences += _closest_simple(evaluation)
    sentences += [f"{gate.name}, by the defaults: {gate.message}" for gate in evaluation.loosened.held_back_by]
    closed = closed_by_decoding(evaluation)
    if closed >= MOST_OF_GAIN:
        sentences.append(decoding_sentence(closed))
    return sentences


def _closest_simple(evaluation: EvaluationResult) -> list[str]:
    """Return the sentence on the closest simple model, if each is beaten and one is closer than the best prompt."""
    titles = {f"{SIMPLE}{name}": inside(model.title) for name, model in SIMPLE_MODELS.items()}
    compared = [(titles[name], c) for name, c in evaluation.comparisons.items() if c and name in titles]
    gains = [(c.gain, c.interval, title) for title, c in compared if c.gain is not None and c.interval is not None]
    baseline = evaluation.comparisons.get("baseline")
    if not gains or any(interval[0] <= 0 for _, interval, _ in gains):
        return []
    gain, interval, title = min(gains)
    if baseline is None or baseline.gain is None or gain >= baseline.gain:
        return []
    return [f"Its closest rival is {title}: {points(gain)} points ({points_range(interval)})."]


def closed_by_decoding(evaluation: EvaluationResult) -> float:
    """Return the share of the gain that constraining the base model's answers brings; 0 if unknown."""
    return (evaluation.format_gap.closed_by_decoding if evaluation.format_gap else None) or 0.0


def decoding_sentence(closed: float) -> str:
    """Return the sentence that constrained decoding would bring most of the gain. closed: at least MOST_OF_GAIN."""
    share = "all of the gain" if closed >= 1 else f"{percent(closed)} of the gain"
    return (
        f"Constrained decoding of the untrained base model would bring {share}: most of the gain is in form, "
        "and possible without fine-tuning."
    )


def gates_section(gates: Sequence[GateResult]) -> Blocks:
    """Show every gate with its measurement, failed ones first; the next steps say what to do."""
    order = ("failed", "warned", "passed", "not_asked")
    yield f"{gate_counts(gates)}." if gates else None
    rows = []
    for gate in sorted(gates, key=lambda gate: order.index(gate.status)):
        rows.append(Answer(f"`{gate.name}`", gate.status, ANSWERS[gate.status], gate.message))
    yield Answers(("Gate", "Passed", "Measured"), rows)


def next_steps(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> list[str]:
    """Return the next steps, the most urgent first, each with its reason."""
    steps = _gate_steps(evaluation, gates) + _training_steps(evaluation)
    return steps + _data_steps(evaluation) + _evidence_steps(evaluation)


def _gate_steps(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> list[str]:
    decision = verdict(gates)
    if evaluation.promoted and (decision != "promote" or not evaluation.promoted.serves):
        steps = ["Nothing to do: it stays as it was accepted. Change the data or the training for a new candidate."]
    elif decision == "promote":
        name = evaluation.task.name
        steps = [f"Serve it: `finetune serve {name}` here, or `finetune export {name} --to DIR` for another server."]
    elif decision == "use_simple":
        steps = _use_simple(evaluation)
    else:
        steps = [f"{gate.name}: {gate.what_to_do}" for gate in gates if not gate.passed and gate.what_to_do]
    steps += [f"{gate.name} (a warning): {gate.what_to_do}" for gate in gates if gate.status == "warned"]
    closed = closed_by_decoding(evaluation)
    if decision != "promote" and not evaluation.promoted and closed >= MOST_OF_GAIN:
        steps.append(
            "Consider constraining the base model's answers to the labels instead: that brings "
            f"{percent(min(closed, 1.0))} of the gain without training."
        )
    return steps


def _use_simple(evaluation: EvaluationResult) -> list[str]:
    """Return steps: use the best simple model, or what the language model would need to pass."""
    name, power = evaluation.task.name, evaluation.baseline.power
    steps = [
        f"Use {inside(_best_simple(evaluation))}: `finetune export {name} --simple --to DIR` writes it, with a card and an "
        "example. It is made in seconds and costs nothing to serve."
    ]
    if power and power.must_reach is not None:
        needed = f"the model must reach about {percent(power.must_reach)} on a test of this size"
        steps.append(f"Or continue training: to be promoted, {needed}.")
    not_worse = f"set gates.simple: not_worse in {name}/task.yaml"
    return [*steps, f"Or, if you want a language model for other reasons, {not_worse}."]


def _best_simple(evaluation: EvaluationResult) -> str:
    """Return the title of the best simple model among those the candidate does not significantly beat."""
    rank, tied = METRICS[evaluation.metric].rank, tied_with(evaluation)
    ranks = {
        model.title: rank(scores.primary.value)
        for name, model in SIMPLE_MODELS.items()
        if model.title in tied and (scores := evaluation.scores.get(f"{SIMPLE}{name}"))
    }
    return max(ranks, key=lambda title: ranks[title], default="the simple model")


def _training_steps(evaluation: EvaluationResult) -> list[str]:
    training = evaluation.training
    fit, best = training.overfitting, training.best_step
    losses = [logged.eval_loss for logged in training.history if logged.eval_loss is not None]
    still_falling = len(losses) > 1 and losses[-1] < losses[-2]
    if best is not None and best == training.steps and still_falling:
        return ["Train longer: the validation loss was still falling at the last step (training.epochs)."]
    if fit.rise is None or fit.rise < MUCH_RISE:
        return []
    rose = f"the validation loss rose by {percent(fit.rise)} after step {number(fit.best_step)}"
    step = f"Lower training.learning_rate: {rose}, though the training loss did not fall."
    if fit.verdict == "overfitted":
        step = f"Train less or on more rows: {rose}, so the model had begun to memorise its training rows."
    return [f"{step} The best checkpoint was kept."]


def _data_steps(evaluation: EvaluationResult) -> list[str]:
    name, steps = evaluation.task.name, []
    groups = sorted((group for group in evaluation.atlas.groups if group.collect), key=lambda group: -group.count)
    if groups:
        kinds = "; ".join(
            f"{group_title(group)} ({counted(group.count, 'mistake')}: collect {counted(group.collect, 'row')} like these)"
            for group in groups[:SHOWN_GROUPS]
        )
        command = f"`finetune report {name} --ask-data` writes the request."
        steps.append(f"Collect rows for the largest groups of mistakes: {kinds}. {command}")
    never_right = evaluation.history.rows.never_right
    if never_right and evaluation.history.versions:
        rows = f"{counted(never_right, 'row')} that no version ever had right"
        steps.append(f"Check the {rows}: they are hard, or labelled wrongly.")
    return steps


def _evidence_steps(evaluation: EvaluationResult) -> list[str]:
    steps, power, people = [], evaluation.baseline.power, evaluation.people
    if power and power.enough is False and power.sentence:
        steps.append(f"Enlarge the test set: {power.sentence}")
    if people is not None and not people.rated:
        command = f"`finetune review {evaluation.task.name}`"
        steps.append(f"Have people review the answers: {command}. No score replaces that.")
    return steps
