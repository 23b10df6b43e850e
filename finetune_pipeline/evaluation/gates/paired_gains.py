"""What the gates on gains share: the outcome of a decision on paired gains, and its sentence."""

from collections.abc import Mapping, Sequence
from typing import Literal

from finetune_pipeline.evaluation.deciding import MIN_ROWS
from finetune_pipeline.evaluation.decisions import Decision, RivalGain
from finetune_pipeline.evaluation.gates.base import Outcome
from finetune_pipeline.evaluation.metrics import is_right_or_wrong, metric_title
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.statistics.proportions import Interval
from finetune_pipeline.evaluation.wording import counted, percent, points, points_range
from finetune_pipeline.spec.outputs import COVERAGE

Side = Literal["baseline", "simple", "champion"]
RIVALS: dict[Side, str] = {
    "baseline": "the base model",
    "simple": "simple models",
    "champion": "the champion in service",
}


def paired_gain(evaluation: EvaluationResult, side: Side, threshold: float, rivals: Mapping[str, str]) -> Outcome:
    """Judge the gains over the rivals on one side: the lower bound of each must lie above the threshold (deciding.decide_gain).

    Args:
        threshold: A decision made with another margin does not pass.
        rivals: What messages call each rival, by name.
    """
    decision: Decision | None = getattr(evaluation.decisions, side)
    gains = decision.gains if decision else []
    measured = worst_gain(gains)
    unknown_rival = any(gain.rival not in rivals for gain in gains)
    if decision is None or measured is None or unknown_rival or decision.margin != threshold:
        return Outcome(False, None, threshold, f"The gain over {RIVALS[side]} could not be measured.")
    (low, high), worst = measured
    passed = decision.shown is True and low > threshold
    n = evaluation.n - (evaluation.champion_learned if side == "champion" else 0)
    message = f"{_all_gains(gains, worst, rivals)} ({counted(n, 'row')}). "
    least = points(threshold, sign=threshold < 0) if threshold else "zero"
    message += f"The lower bound{'s' if len(gains) > 1 else ''} must lie above {least}."
    message += level_note(evaluation, gains)
    if not passed and high >= threshold and is_right_or_wrong(worst.metric):
        same_pair = f"simple_{worst.rival}" if side == "simple" else side
        comparisons = evaluation.comparisons
        comparison = comparisons.get(f"base_{worst.rival}", comparisons.get(same_pair))
        visible = comparison.smallest_detectable_gain if comparison else None
        if visible is None:
            message += " At this number of rows and disagreements no gain at all would be visible."
        else:
            often = f"{points(visible, sign=False)} points or more four times in five, to the first candidate"
            message += f" With the disagreement found, this test set shows gains of {often}."
    return Outcome(passed, low, threshold, message)


def worst_gain(gains: Sequence[RivalGain]) -> tuple[Interval, RivalGain] | None:
    """The gain with the lowest lower bound, after its interval; None without gains, or if one of them was not measured."""
    measured = [(gain.interval, gain) for gain in gains if gain.gain is not None and gain.interval is not None]
    if not gains or len(measured) < len(gains):
        return None
    return min(measured, key=lambda pair: pair[0])


def _all_gains(gains: Sequence[RivalGain], worst: RivalGain, rivals: Mapping[str, str]) -> str:
    """Every gain with its interval; of more than two in one metric, only the one that decides, and the others without."""
    if len(gains) < 3 or len({gain.metric for gain in gains}) > 1:
        return f"Against {'; '.join(one_gain(gain, rivals) for gain in gains)}"
    other_gains = ", ".join(f"{rivals[gain.rival]} {points(gain.gain)}" for gain in gains if gain is not worst)
    return f"Against {one_gain(worst, rivals)}, the closest of {len(gains)}; {other_gains}"


def one_gain(gain: RivalGain, rivals: Mapping[str, str]) -> str:
    """Say the gain over a rival with its interval; of rows answered without a person, also both shares."""
    level = "paired" if gain.confidence is None else f"{100 * gain.confidence:.4g}%"
    if gain.metric == COVERAGE:
        return (
            f"{rivals[gain.rival]}, which answers {percent(gain.rival_alone)} by itself: answers {percent(gain.alone)}, "
            f"{points(gain.gain)} points ({level} interval {points_range(gain.interval)})"
        )
    return (
        f"{rivals[gain.rival]}: {points(gain.gain)} points of {metric_title(gain.metric)} "
        f"({level} interval {points_range(gain.interval)})"
    )


def level_note(evaluation: EvaluationResult, gains: Sequence[RivalGain] = ()) -> str:
    """Why the level is stricter than gates.confidence; empty if it is not."""
    look, sentence = evaluation.seal.level.look, ""
    if look is not None and look > 1:
        sentence += f" This is judgement {look} by this test, so its level is stricter than that of the first."
    if len(gains) > 1:
        sentence += f" All {len(gains)} must be shown."
    return sentence


def champion_not_compared(evaluation: EvaluationResult, threshold: float) -> Outcome:
    """The failure of a gate on the champion where the candidate was not compared with it."""
    learned, left = evaluation.champion_learned, evaluation.n - evaluation.champion_learned
    if not learned:
        return Outcome(False, None, threshold, "There is a champion, but the candidate was not compared with it.")
    message = (
        f"The champion was trained on {learned} of the {counted(evaluation.n, 'test row')}: {left} are left, and {MIN_ROWS} are "
        "needed to compare."
    )
    to_do = (
        "Add rows that the champion was not trained on, until enough of them are in the test. Or remove the alias `champion` in "
        "MLflow: the next candidate is then judged without it."
    )
    return Outcome(False, None, threshold, message, to_do)
