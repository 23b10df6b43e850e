"""Gates beyond the task's own test: general ability that must be kept, what people must have said, and test rows that are
perturbed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from finetune_pipeline.evaluation.gate_result import GateResult, answer, part
from finetune_pipeline.evaluation.robustness import robustness_verdict
from finetune_pipeline.evaluation.wording import (
    counted,
    is_interval,
    is_number,
    percent,
    percent_range,
    points,
    points_range,
)
from finetune_pipeline.spec.model import GatesSpec, TaskSpec
from finetune_pipeline.spec.robustness import ENOUGH_ROWS, RobustnessSpec

_D, _R = GatesSpec.model_validate({}), RobustnessSpec.model_validate({})
BESIDES_GATES: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "general_ability",
        "the upper bound of the accuracy lost on questions besides the task below gates.max_ability_loss, no benchmark of your "
        "own that surely loses as much, and the upper bound of the relative rise of the bits plain text costs below "
        "gates.max_text_loss; not asked where the spec asks nothing",
        f"{_D.max_ability_loss:g}, {_D.max_text_loss:g}",
        "champion",
        "Train more gently: fewer epochs, a lower learning rate, a smaller rank, or qlora or lora in place of full. Mix some "
        "general examples into the training data. If only this one task will ever be asked of the model, raise the limits.",
    ),
    (
        "human_review",
        "gates.min_rated answers drawn at random judged by people, and the lower bound of the accepted share at or above "
        "gates.min_accepted; not asked where gates.min_rated is 0",
        f"{_D.min_rated:d}, {_D.min_accepted:g}",
        "champion",
        "Open `finetune review TASK`, or have more people judge the sheet. Where they refuse answers, read their comments "
        "in the report and add training rows like the ones that were refused.",
    ),
    (
        "robust",
        f"no perturbation that production brings (typing errors, another case, a greeting and thanks), measured on {ENOUGH_ROWS} "
        "test rows or more, costs more than robustness.max_drop and surely something; on fewer rows, or with robustness.action: "
        "warn, it holds nothing back; not asked where robustness.rows is 0",
        f"{_R.max_drop:g}, {_R.action}",
        "champion, with robustness.action: block",
        "Set training.augment: true, which gives training rows the same perturbations, or add training rows written that way. "
        "Or take the perturbation away before the model sees it (strip greetings and thanks).",
    ),
)
"""Name, needs, default, what is held back, what to do."""
_TO_DO = {row[0]: row[4] for row in BESIDES_GATES}


def general_ability(spec: TaskSpec, evaluation: Mapping[str, Any]) -> GateResult:
    """The upper bound of what was lost lies below the limits. Measured: the upper bound of the lost accuracy."""
    name, limit = "general_ability", spec.gates.max_ability_loss
    told = part(evaluation.get("ability"))
    if told.get("items") == 0 and not (spec.ability.suite or spec.ability.files or spec.ability.harness.tasks):
        return answer(name, "not_asked", None, limit, "The spec asks nothing besides the task.", "")
    drop, interval = told.get("drop"), told.get("interval")
    if not is_number(drop) or not is_interval(interval):
        return answer(name, False, None, limit, "General ability was not measured.", _TO_DO[name])
    low, high = interval
    message = (
        f"{points(-drop)} points on {counted(int(told.get('n') or 0), 'question')} besides the task "
        f"(interval {points_range([-high, -low])}); a loss of {points(limit, sign=False)} points must be ruled out."
    )
    passed = high < limit
    if not passed and low < limit:
        message += f" A loss that large is not shown either: {points(low)} to {points(high)} points may be lost."
    surely = {name: b for name, of in part(told.get("benchmarks")).items() if (b := _least_lost(of)) >= limit}
    if surely:
        lost = ", ".join(f"{name} surely loses {points(b, sign=False)} points" for name, b in surely.items())
        message, passed = f"{message} Of the benchmarks, {lost}.", False
    text = told.get("text")
    if text is not None:
        rise, bound = _relative(part(text))
        if rise is None or bound is None:
            return answer(name, False, None, limit, "What plain text costs was not measured.", _TO_DO[name])
        allowed = spec.gates.max_text_loss
        message += f" Plain text costs {rise:+.1%} bits (surely at most {bound:+.1%}; allowed {allowed:+.0%})."
        passed = passed and bound < allowed
    return answer(name, passed, high, limit, message, _TO_DO[name])


def _least_lost(benchmark: Any) -> float:
    """Lower bound of what a benchmark has lost; infinity where it was not measured."""
    interval = part(benchmark).get("interval")
    return float(interval[0]) if is_interval(interval) else math.inf


def _relative(text: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """(relative rise of the bits a byte, its upper bound)."""
    before, rise, interval = text.get("before"), text.get("rise"), text.get("interval")
    if not is_number(before) or before <= 0 or not is_number(rise) or not is_interval(interval):
        return None, None
    return rise / before, interval[1] / before


def human_review(spec: TaskSpec, evaluation: Mapping[str, Any]) -> GateResult:
    """Enough answers of the random half were judged, and enough of them are surely accepted."""
    name, wanted, least = "human_review", spec.gates.min_rated, spec.gates.min_accepted
    if not wanted:
        return answer(name, "not_asked", None, least, "The spec asks for no judgement by people.", "")
    half = part(part(evaluation.get("people")).get("random"))
    n, own = half.get("n", 0), part(half.get("candidate"))
    share, interval = own.get("share"), own.get("interval")
    if not is_number(n) or n < wanted or not is_number(share) or not is_interval(interval):
        seen = int(n) if is_number(n) else 0
        message = f"People have judged {seen} of {wanted} answers drawn at random."
        return answer(name, False, None, least, message, _TO_DO[name])
    message = (
        f"People accept {percent(share)} of {counted(int(n), 'answer')} drawn at random ({percent_range(interval)}); surely "
        f"{percent(least)} are asked for."
    )
    return answer(name, interval[0] >= least, interval[0], least, message, _TO_DO[name])


def robust_rows(spec: TaskSpec, evaluation: Mapping[str, Any]) -> GateResult:
    """No perturbation production brings surely costs too much (robustness.robustness_verdict)."""
    verdict = robustness_verdict(spec.robustness, evaluation.get("robustness"))
    to_do = _TO_DO["robust"]
    return answer("robust", verdict.status, verdict.largest_drop, spec.robustness.max_drop, verdict.sentence, to_do)
