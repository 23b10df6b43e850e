"""Gates on gains: over the base model at its best, over models without a language model, over the champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from finetune_pipeline.evaluation.deciding import margin_of
from finetune_pipeline.evaluation.gate_result import GateResult, answer
from finetune_pipeline.evaluation.result import Decision, EvaluationResult, RivalGain
from finetune_pipeline.evaluation.rivals import IN_FORM
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.wording import (
    RIGHT_OR_WRONG,
    counted,
    inside,
    metric_title,
    percent,
    points,
    points_range,
    prompt_name,
)
from finetune_pipeline.spec.evaluation import GatesSpec
from finetune_pipeline.spec.model import TaskSpec

_D = GatesSpec.model_validate({})
GAIN_GATES: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "beats_baseline",
        "the lower bound of the paired gain over the base model at its best (its best prompt as it answers, and its answers "
        "restricted to the allowed forms) above gates.min_gain, in gates.metric and every one of gates.more_metrics. Where "
        f"fewer than {100 * IN_FORM:g}% of its answers are in form, the restricted answers decide alone",
        f"{_D.min_gain:g} points, {100 * _D.confidence:g}% interval for the first candidate; a tie does not pass",
        "champion",
        "Read the regressions and wrong answers in the report; add or correct training rows like those that fail. If the "
        "interval is wide, enlarge the test set.",
    ),
    (
        "beats_commonest",
        "the lower bound of the paired gain over always giving the commonest answer (for JSON also each field's commonest "
        "value) above zero in the metric that decides, whatever gates.simple says",
        f"{100 * _D.confidence:g}% interval for the first candidate; a tie does not pass",
        "champion",
        "The model has learned nothing that shows. Look for labels that do not belong to their texts (joins, shifted columns), "
        "and for answers that depend on something the input does not hold.",
    ),
    (
        "beats_simple",
        "the lower bound of the paired gain over each model without a language model ("
        + ", ".join(inside(model.title) for model in SIMPLE_MODELS.values())
        + ") above zero in the metric that decides (gates.simple: better), or above minus gates.simple_margin (not_worse)",
        f"{_D.simple}, {100 * _D.confidence:g}% interval for the first candidate; a tie does not pass",
        "champion",
        "Use the simple model: `finetune export TASK --simple --to DIR` writes it. Or train longer or on more rows, until the "
        "language model is surely better. gates.simple: not_worse takes a tie, where you want one model for other reasons.",
    ),
    (
        "beats_champion",
        "the lower bound of the paired gain over the champion above zero (gates.champion: better), or above minus "
        "gates.champion_margin and the candidate ahead (not_worse); not asked without a champion",
        f"{_D.champion}, {100 * _D.confidence:g}% interval for the first candidate; a tie does not pass",
        "champion",
        "Keep the champion. Look at the regressions against it; retrain with the production rows that it gets wrong.",
    ),
)
"""Name, needs, default, what is held back, what to do."""
BLIND = ("commonest", "commonest_fields")
"""Simple models that look at no input."""
_TO_DO = {row[0]: row[4] for row in GAIN_GATES}


def beats_baseline(spec: TaskSpec, evaluation: EvaluationResult) -> GateResult:
    """The base model at its best is surely beaten, in every metric named, at the level this look has left."""
    best = prompt_name(evaluation.baseline.best)
    names = {
        "free": f"the base model with its {best} prompt",
        "restricted": "the same model with its answers restricted to the allowed forms",
        "lenient": f"the base model with its {best} prompt, its answers read leniently",
    }
    result = _gain("beats_baseline", evaluation, "baseline", spec.gates.min_gain, names)
    base = evaluation.base_at_its_best
    if base.mode == "free" or base.valid_share is None:
        return result
    why = (
        f"Only {percent(base.valid_share)} of the base model's answers are in form, so that as it writes freely it is no "
        f"rival; what decides is its {'restricted answers' if base.mode == 'restricted' else 'answers, read leniently'}. "
    )
    return replace(result, message=why + result.message)


def beats_commonest(spec: TaskSpec, evaluation: EvaluationResult) -> GateResult:
    """The answers that look at no input are surely beaten: what does not beat them has learned nothing."""
    name = "beats_commonest"
    blind = [gain for gain in evaluation.decisions.simple.gains if gain.rival in BLIND]
    measured = [(gain.interval[0], gain) for gain in blind if gain.gain is not None and gain.interval is not None]
    if not blind or len(measured) < len(blind):
        message = "The gain over always giving the commonest answer could not be measured."
        return answer(name, False, None, 0.0, message, _TO_DO[name])
    low, worst = min(measured, key=lambda pair: pair[0])
    message = f"Against {_one_gain(worst, {rival: inside(SIMPLE_MODELS[rival].title) for rival in BLIND})}."
    return answer(name, low > 0, low, 0.0, f"{message} The lower bound must lie above zero.", _TO_DO[name])


def beats_simple(spec: TaskSpec, evaluation: EvaluationResult) -> GateResult:
    """Every model without a language model is surely beaten; with gates.simple: not_worse, surely not much better."""
    threshold = margin_of(spec.gates.simple, spec.gates.simple_margin)
    names = {model: inside(kind.title) for model, kind in SIMPLE_MODELS.items()}
    result = _gain("beats_simple", evaluation, "simple", threshold, names)
    if result.passed and (tied := tied_with(evaluation)):
        titles = " and ".join(map(inside, tied))
        message = f"{result.message} This is a tie with {titles}, which gates.simple: not_worse takes."
        return replace(result, message=message)
    return result


def tied_with(evaluation: EvaluationResult) -> list[str]:
    """Titles of the simple models the candidate is not surely better than, in the order of SIMPLE_MODELS."""
    gains = evaluation.decisions.simple.gains
    return [SIMPLE_MODELS[gain.rival].title for gain in gains if gain.interval is None or gain.interval[0] <= 0]


def beats_champion(spec: TaskSpec, evaluation: EvaluationResult) -> GateResult:
    """The champion is surely beaten; with gates.champion: not_worse, surely lost little to, and the candidate ahead."""
    name, gates = "beats_champion", spec.gates
    threshold = margin_of(gates.champion, gates.champion_margin)
    decision = evaluation.decisions.champion
    if decision is None:
        if evaluation.versions.get("champion"):
            return answer(name, False, None, threshold, "There is a champion, but it was not compared.", _TO_DO[name])
        return answer(name, "not_asked", None, threshold, "No champion in service yet: nothing to beat.", "")
    result = _gain(name, evaluation, "champion", threshold, {"champion": "the champion in service"})
    if gates.champion == "better" or not result.passed or (decision.gains[0].gain or 0.0) > 0:
        return result
    message = f"{result.message} It is not ahead on these rows, and a tie is no reason to change what is in service."
    return answer(name, False, result.measured, threshold, message, _TO_DO[name])


Side = Literal["baseline", "simple", "champion"]


def _gain(
    name: str, evaluation: EvaluationResult, side: Side, threshold: float, rivals: Mapping[str, str]
) -> GateResult:
    """The decision on `side` (see deciding.decide_gain): the lower bound of every gain above the threshold.

    Args:
        name: Of the gate.
        evaluation: Of evaluate_run.evaluate_task.
        side: Which of its decisions.
        threshold: What every lower bound must lie above; a decision made with another margin does not pass.
        rivals: How messages call each rival, by name.
    """
    decision: Decision | None = getattr(evaluation.decisions, side)
    gains = decision.gains if decision else []
    intervals = [g.interval for g in gains if g.rival in rivals and g.gain is not None and g.interval is not None]
    if decision is None or not gains or len(intervals) < len(gains) or decision.margin != threshold:
        return answer(name, False, None, threshold, f"The gain over {_over(side)} could not be measured.", _TO_DO[name])
    low, high, which = min((*interval, i) for i, interval in enumerate(intervals))
    worst = gains[which]
    passed = decision.shown is True and low > threshold
    message = f"{_all_gains(gains, worst, rivals)} ({counted(evaluation.n, 'row')}). "
    message += f"The lower bound{'s' if len(gains) > 1 else ''} must lie above {_points_or_zero(threshold)}."
    message += _why_so_strict(evaluation, gains)
    if not passed and high >= threshold and worst.metric in RIGHT_OR_WRONG:
        comparison = evaluation.comparisons.get(_comparison(side, worst.rival))
        message += _what_would_be_seen(comparison.smallest_detectable_gain if comparison else None)
    return answer(name, passed, low, threshold, message, _TO_DO[name])


def _over(side: Side) -> str:
    return {
        "baseline": "the base model",
        "simple": "models without a language model",
        "champion": "the champion in service",
    }[side]


def _comparison(side: Side, rival: str) -> str:
    """The key in `comparisons` that holds the same pair."""
    return f"simple_{rival}" if side == "simple" else "base_restricted" if rival == "restricted" else side


def _all_gains(gains: Sequence[RivalGain], worst: RivalGain, rivals: Mapping[str, str]) -> str:
    """Every gain with its interval; of more than two in one metric, the gain that decides, and the others in short."""
    if len(gains) < 3 or len({gain.metric for gain in gains}) > 1:
        return f"Against {'; '.join(_one_gain(gain, rivals) for gain in gains)}"
    others = ", ".join(f"{rivals[gain.rival]} {points(gain.gain)}" for gain in gains if gain is not worst)
    return f"Against {_one_gain(worst, rivals)}, the closest of {len(gains)}; {others}"


def _one_gain(gain: RivalGain, rivals: Mapping[str, str]) -> str:
    level = "paired" if gain.confidence is None else f"{100 * gain.confidence:.4g}%"
    return (
        f"{rivals[gain.rival]}: {points(gain.gain)} points of {metric_title(gain.metric)} "
        f"({level} interval {points_range(gain.interval)})"
    )


def _points_or_zero(threshold: float) -> str:
    return points(threshold, sign=threshold < 0) if threshold else "zero"


def _why_so_strict(evaluation: EvaluationResult, gains: Sequence[RivalGain]) -> str:
    look = evaluation.seal.level.look
    sentence = ""
    if look is not None and look > 1:
        sentence += f" This is candidate {look} that this test judges, so its level is stricter than that of the first."
    if len(gains) > 1:
        sentence += f" All {len(gains)} must be shown, each at its share of the level (Holm)."
    return sentence


def _what_would_be_seen(visible: float | None) -> str:
    if visible is not None:
        return (
            f" With the disagreement found, this test set shows gains of {points(visible, sign=False)} points or more "
            "four times in five, to the first candidate."
        )
    return " At this number of rows and disagreements no gain at all would be visible."
