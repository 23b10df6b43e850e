"""The gate on recent production rows, which are no part of the sealed test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_pipeline.evaluation.gate_result import GateResult, answer
from finetune_pipeline.evaluation.production_rows import FEWEST, judge
from finetune_pipeline.evaluation.wording import is_interval, is_number
from finetune_pipeline.spec.model import TaskSpec

RECENT_GATES: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "recent_production",
        "on recent production rows with a known answer, which no version was trained on, the candidate is not shown to be "
        "worse than the champion (the base model where there is none); not asked where there are fewer than "
        f"{FEWEST} such rows",
        "logs.judging_share 0.2",
        "champion",
        "Keep the champion: the candidate is better on what was collected, and worse on what is asked now. Look at the drift "
        "page, and train again with the newest corrections.",
    ),
)
"""Name, needs, default, what is held back, what to do."""


def recent_production(spec: TaskSpec, evaluation: Mapping[str, Any]) -> GateResult:
    """Refuses a candidate whose whole interval of the gain on recent production rows lies below zero. Measured: the upper
    bound of the gain. Too few rows refuse nobody; enough rows that were not compared do."""
    name, _, _, _, to_do = RECENT_GATES[0]
    told = evaluation.get("production")
    if told is None and "production" in evaluation:
        message = "No production rows with a known answer are kept to judge (logs.judging_share)."
        return answer(name, "not_asked", None, 0.0, message, "")
    unread = answer(name, False, None, 0.0, "Recent production rows were not compared.", to_do)
    if not isinstance(told, Mapping) or not isinstance(told.get("judged"), bool):
        return unread
    other = "champion" if (evaluation.get("versions") or {}).get("champion") else "base"
    if told["judged"]:
        found = (told.get("comparisons") or {}).get(other)
        if other == "base" and found is None:
            message = "The baseline is an API model, which production rows are not sent to: nothing to compare with."
            return answer(name, "not_asked", None, 0.0, message, "")
        if not isinstance(found, Mapping) or not is_number(found.get("gain")) or not is_interval(found.get("interval")):
            return unread
        passed, sentence = judge(told, other)
        return answer(name, passed, found["interval"][1], 0.0, f"{sentence}.", to_do)
    if not is_number((told.get("rows") or {}).get("rows")):
        return unread
    return answer(name, "not_asked", None, 0.0, judge(told, other)[1], "")
