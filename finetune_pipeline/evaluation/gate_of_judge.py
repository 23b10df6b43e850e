"""The gate of a judging language model. What it says counts only where it agrees with people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_pipeline.evaluation.gate_result import GateResult, answer, part
from finetune_pipeline.evaluation.wording import counted, is_interval, is_number, percent, percent_range
from finetune_pipeline.spec.model import GatesSpec, TaskSpec

_NAME = "judge"
_TO_DO = (
    "Where the judge is not believed: have people rate more pairs (`finetune review TASK`), or take another judging model. "
    "Where it is: read the pairs it decides against the candidate, and add training rows like them."
)
JUDGE_GATE = (
    _NAME,
    "a judge that agrees with people (evaluation.judge), and the lower bound of the share of decided pairs in which it "
    "prefers the candidate to the base at or above gates.min_preferred; not asked where gates.min_preferred is 0",
    f"{GatesSpec.model_validate({}).min_preferred:g}",
    "champion",
    _TO_DO,
)
"""Name, needs, default, what is held back, what to do."""


def judge(spec: TaskSpec, evaluation: Mapping[str, Any]) -> GateResult:
    """The judge is believed, and surely prefers the candidate often enough."""
    least = spec.gates.min_preferred
    if not least:
        return answer(_NAME, "not_asked", None, least, "The spec lets no judge decide.", "")
    told = part(evaluation.get("judge"))
    if told.get("believed") is not True:
        why = "; ".join(map(str, told.get("refused") or [])) or "none was asked"
        return answer(_NAME, False, None, least, f"There is no judge to be believed: {why}.", _TO_DO)
    found = part(told.get("verdict"))
    share, interval = found.get("share"), found.get("interval")
    if not is_number(share) or not is_interval(interval):
        return answer(_NAME, False, None, least, "The judge decided no pair.", _TO_DO)
    decided = int(found.get("wins") or 0) + int(found.get("losses") or 0)
    message = (
        f"The judge prefers the fine-tuned answer in {percent(share)} of {counted(decided, 'decided pair')} "
        f"({percent_range(interval)}); surely {percent(least)} are asked for."
    )
    return answer(_NAME, interval[0] >= least, interval[0], least, message, _TO_DO)
