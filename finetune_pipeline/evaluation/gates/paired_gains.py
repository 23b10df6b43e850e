"""Gates on paired gains over other models, the decision they share, and its sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from finetune_pipeline.evaluation.deciding import FEWEST, margin_of
from finetune_pipeline.evaluation.gates.base import DEFAULTS, Outcome, gate
from finetune_pipeline.evaluation.metrics import METRICS, metric_title
from finetune_pipeline.evaluation.result import Decision, EvaluationResult, RivalGain
from finetune_pipeline.evaluation.rivals import IN_FORM
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.wording import counted, inside, percent, points, points_range, prompt_name
from finetune_pipeline.spec.model import TaskSpec

Side = Literal["baseline", "simple", "champion"]
RIVALS: dict[Side, str] = {
    "baseline": "the base model",
    "simple": "models without a language model",
    "champion": "the champion in service",
}


def paired_gain(evaluation: EvaluationResult, side: Side, threshold: float, rivals: Mapping[str, str]) -> Outcome:
    """The decision on `side` (see deciding.decide_gain): the lower bound of every gain above the threshold.

    threshold: a decision made with another margin does not pass. rivals: how messages call each rival, by name.
    """
    decision: Decision | None = getattr(evaluation.decisions, side)
    gains = decision.gains if decision else []
    intervals = [g.interval for g in gains if g.rival in rivals and g.gain is not None and g.interval is not None]
    if decision is None or not gains or len(intervals) < len(gains) or decision.margin != threshold:
        return Outcome(False, None, threshold, f"The gain over {RIVALS[side]} could not be measured.")
    low, high, which = min((*interval, i) for i, interval in enumerate(intervals))
    worst = gains[which]
    passed = decision.shown is True and low > threshold
    message = f"{_all_gains(gains, worst, rivals)} ({counted(evaluation.n, 'row')}). "
    least = points(threshold, sign=threshold < 0) if threshold else "zero"
    message += f"The lower bound{'s' if len(gains) > 1 else ''} must lie above {least}."
    message += _why_so_strict(evaluation, gains)
    if not passed and high >= threshold and METRICS[worst.metric].right_or_wrong:
        same_pair = f"simple_{worst.rival}" if side == "simple" else side
        comparison = evaluation.comparisons.get("base_restricted" if worst.rival == "restricted" else same_pair)
        visible = comparison.smallest_detectable_gain if comparison else None
        seen = " At this number of rows and disagreements no gain at all would be visible."
        if visible is not None:
            seen = f" With the disagreement found, this test set shows gains of {points(visible, sign=False)} points or more"
            seen += " four times in five, to the first candidate."
        message += seen
    return Outcome(passed, low, threshold, message)


def _all_gains(gains: Sequence[RivalGain], worst: RivalGain, rivals: Mapping[str, str]) -> str:
    """Every gain with its interval; of more than two in one metric, the gain that decides, and the others in short."""
    if len(gains) < 3 or len({gain.metric for gain in gains}) > 1:
        return f"Against {'; '.join(one_gain(gain, rivals) for gain in gains)}"
    others = ", ".join(f"{rivals[gain.rival]} {points(gain.gain)}" for gain in gains if gain is not worst)
    return f"Against {one_gain(worst, rivals)}, the closest of {len(gains)}; {others}"


def one_gain(gain: RivalGain, rivals: Mapping[str, str]) -> str:
    level = "paired" if gain.confidence is None else f"{100 * gain.confidence:.4g}%"
    return (
        f"{rivals[gain.rival]}: {points(gain.gain)} points of {metric_title(gain.metric)} "
        f"({level} interval {points_range(gain.interval)})"
    )


def _why_so_strict(evaluation: EvaluationResult, gains: Sequence[RivalGain]) -> str:
    look, sentence = evaluation.seal.level.look, ""
    if look is not None and look > 1:
        sentence += f" This is candidate {look} that this test judges, so its level is stricter than that of the first."
    if len(gains) > 1:
        sentence += f" All {len(gains)} must be shown, each at its share of the level (Holm)."
    return sentence


@gate(
    order=10,
    needs="the lower bound of the paired gain over the base model at its best (its best prompt as it answers, and its answers "
    "restricted to the allowed forms) above gates.min_gain, in gates.metric and every one of gates.more_metrics. Where "
    f"fewer than {100 * IN_FORM:g}% of its answers are in form, the restricted answers decide alone",
    default=f"{DEFAULTS.min_gain:g} points, {100 * DEFAULTS.confidence:g}% interval for the first candidate; a tie does not pass",
    holds_back="champion",
    what_to_do="Read the regressions and wrong answers in the report; add or correct training rows like those that fail. If the "
    "interval is wide, enlarge the test set.",
)
def beats_baseline(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    best = prompt_name(evaluation.baseline.best)
    names = {
        "free": f"the base model with its {best} prompt",
        "restricted": "the same model with its answers restricted to the allowed forms",
        "lenient": f"the base model with its {best} prompt, its answers read leniently",
    }
    result = paired_gain(evaluation, "baseline", spec.gates.min_gain, names)
    base = evaluation.base_at_its_best
    if base.mode == "free" or base.valid_share is None:
        return result
    why = (
        f"Only {percent(base.valid_share)} of the base model's answers are in form, so that as it writes freely it is no "
        f"rival; what decides is its {'restricted answers' if base.mode == 'restricted' else 'answers, read leniently'}. "
    )
    return replace(result, message=why + result.message)


@gate(
    order=15,
    needs="the lower bound of the paired gain over the base model at its best above gates.min_gain on the test rows of each "
    f"file of gates.parts alone; fewer than {FEWEST} rows do not pass; not asked where gates.parts is empty",
    default="no parts",
    holds_back="champion",
    what_to_do="The model has learned one kind of row, and not this one: add training rows of its kind. With too few test rows "
    "of it, collect more of them.",
)
def beats_baseline_on_parts(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    threshold = spec.gates.min_gain
    named = [part for part in evaluation.parts if part.files is not None]
    if not spec.gates.parts:
        return Outcome("not_asked", None, threshold, "The spec names no files in gates.parts.")
    if [part.files for part in named] != spec.gates.parts:
        return Outcome(False, None, threshold, "The files of gates.parts were not evaluated separately.")
    sentences, lows, passed = [], [], True
    for part in named:
        gains = part.decision.gains if part.decision else []
        intervals = [g.interval for g in gains if g.interval is not None]
        if part.decision is None or len(intervals) < max(len(gains), 1):
            sentences.append(f"{part.files}: {counted(part.n, 'test row')}, {FEWEST} are needed.")
            passed = False
            continue
        worst = min(gains, key=lambda g: g.interval[0] if g.interval else 0.0)
        lows.append(min(interval[0] for interval in intervals))
        passed = passed and part.decision.shown is True and lows[-1] > threshold
        measured = f"{points_range(worst.interval)}, {counted(part.n, 'row')}"
        sentences.append(f"{part.files}: {points(worst.gain)} points ({measured}).")
    least = points(threshold, sign=False) if threshold else "zero"
    message = f"{' '.join(sentences)} The lower bounds must lie above {least}."
    return Outcome(passed, min(lows, default=None), threshold, message)


BLIND = ("commonest", "commonest_fields")
"""Simple models that look at no input."""


@gate(
    order=20,
    needs="the lower bound of the paired gain over always giving the commonest answer (for JSON also each field's commonest "
    "value) above zero in the metric that decides, whatever gates.simple says",
    default=f"{100 * DEFAULTS.confidence:g}% interval for the first candidate; a tie does not pass",
    holds_back="champion",
    what_to_do="The model has learned nothing that shows. Look for labels that do not belong to their texts (joins, shifted "
    "columns), and for answers that depend on something the input does not hold.",
)
def beats_commonest(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    blind = [gain for gain in evaluation.decisions.simple.gains if gain.rival in BLIND]
    measured = [(gain.interval[0], gain) for gain in blind if gain.gain is not None and gain.interval is not None]
    if not blind or len(measured) < len(blind):
        message = "The gain over always giving the most common answer could not be measured."
        return Outcome(False, None, 0.0, message)
    low, worst = min(measured, key=lambda pair: pair[0])
    message = f"Against {one_gain(worst, {rival: inside(SIMPLE_MODELS[rival].title) for rival in BLIND})}."
    return Outcome(low > 0, low, 0.0, f"{message} The lower bound must lie above zero.")


def tied_with(evaluation: EvaluationResult) -> list[str]:
    """Titles of the simple models that the candidate does not significantly beat, in the order of SIMPLE_MODELS."""
    gains = evaluation.decisions.simple.gains
    return [SIMPLE_MODELS[gain.rival].title for gain in gains if gain.interval is None or gain.interval[0] <= 0]


@gate(
    order=30,
    needs="the lower bound of the paired gain over each model without a language model ("
    + ", ".join(inside(model.title) for model in SIMPLE_MODELS.values())
    + ") above zero in the metric that decides (gates.simple: better), or above minus gates.simple_margin (not_worse)",
    default=f"{DEFAULTS.simple}, {100 * DEFAULTS.confidence:g}% interval for the first candidate; a tie does not pass",
    holds_back="champion",
    what_to_do="Use the simple model: `finetune export TASK --simple --to DIR` writes it. Or train longer or on more rows, until "
    "the language model is surely better. gates.simple: not_worse takes a tie, where you want one model for other reasons.",
)
def beats_simple(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    threshold = margin_of(spec.gates.simple, spec.gates.simple_margin)
    names = {model: inside(kind.title) for model, kind in SIMPLE_MODELS.items()}
    result = paired_gain(evaluation, "simple", threshold, names)
    if result.status is True and (tied := tied_with(evaluation)):
        titles = " and ".join(map(inside, tied))
        message = f"{result.message} This is a tie with {titles}, which gates.simple: not_worse takes."
        return replace(result, message=message)
    return result


@gate(
    order=40,
    needs="the lower bound of the paired gain over the champion above zero (gates.champion: better), or above minus "
    "gates.champion_margin and the candidate ahead (not_worse); not asked without a champion",
    default=f"{DEFAULTS.champion}, {100 * DEFAULTS.confidence:g}% interval for the first candidate; a tie does not pass",
    holds_back="champion",
    what_to_do="Keep the champion. Look at the regressions against it; retrain with the production rows that it gets wrong.",
)
def beats_champion(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    gates = spec.gates
    threshold = margin_of(gates.champion, gates.champion_margin)
    decision = evaluation.decisions.champion
    if decision is None:
        if evaluation.versions.get("champion"):
            return Outcome(False, None, threshold, "There is a champion, but the candidate was not compared with it.")
        return Outcome("not_asked", None, threshold, "No champion in service yet: nothing to beat.")
    result = paired_gain(evaluation, "champion", threshold, {"champion": "the champion in service"})
    if gates.champion == "better" or result.status is not True or (decision.gains[0].gain or 0.0) > 0:
        return result
    message = f"{result.message} It is not ahead on these rows, and a tie is no reason to replace the model in service."
    return Outcome(False, result.measured, threshold, message)
