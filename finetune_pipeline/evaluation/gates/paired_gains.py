"""Shared by the gates on gains: the decision on paired gains, and its sentence."""

from collections.abc import Mapping, Sequence
from typing import Literal

from finetune_pipeline.evaluation.gates.base import Outcome
from finetune_pipeline.evaluation.metrics import METRICS, metric_title
from finetune_pipeline.evaluation.result import Decision, EvaluationResult, RivalGain
from finetune_pipeline.evaluation.wording import counted, points, points_range

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
    low, high, index = min((*interval, i) for i, interval in enumerate(intervals))
    worst = gains[index]
    passed = decision.shown is True and low > threshold
    message = f"{_all_gains(gains, worst, rivals)} ({counted(evaluation.n, 'row')}). "
    least = points(threshold, sign=threshold < 0) if threshold else "zero"
    message += f"The lower bound{'s' if len(gains) > 1 else ''} must lie above {least}."
    message += _level_note(evaluation, gains)
    if not passed and high >= threshold and METRICS[worst.metric].right_or_wrong:
        same_pair = f"simple_{worst.rival}" if side == "simple" else side
        comparison = evaluation.comparisons.get("base_restricted" if worst.rival == "restricted" else same_pair)
        visible = comparison.smallest_detectable_gain if comparison else None
        if visible is None:
            message += " At this number of rows and disagreements no gain at all would be visible."
        else:
            least = f"{points(visible, sign=False)} points or more four times in five, to the first candidate"
            message += f" With the disagreement found, this test set shows gains of {least}."
    return Outcome(passed, low, threshold, message)


def _all_gains(gains: Sequence[RivalGain], worst: RivalGain, rivals: Mapping[str, str]) -> str:
    """Every gain with its interval; of more than two in one metric, only the one that decides, and the others without."""
    if len(gains) < 3 or len({gain.metric for gain in gains}) > 1:
        return f"Against {'; '.join(one_gain(gain, rivals) for gain in gains)}"
    other_gains = ", ".join(f"{rivals[gain.rival]} {points(gain.gain)}" for gain in gains if gain is not worst)
    return f"Against {one_gain(worst, rivals)}, the closest of {len(gains)}; {other_gains}"


def one_gain(gain: RivalGain, rivals: Mapping[str, str]) -> str:
    level = "paired" if gain.confidence is None else f"{100 * gain.confidence:.4g}%"
    return (
        f"{rivals[gain.rival]}: {points(gain.gain)} points of {metric_title(gain.metric)} "
        f"({level} interval {points_range(gain.interval)})"
    )


def _level_note(evaluation: EvaluationResult, gains: Sequence[RivalGain]) -> str:
    look, sentence = evaluation.seal.level.look, ""
    if look is not None and look > 1:
        sentence += f" This is candidate {look} that this test judges, so its level is stricter than that of the first."
    if len(gains) > 1:
        sentence += f" All {len(gains)} must be shown, each at its share of the level (Holm)."
    return sentence
