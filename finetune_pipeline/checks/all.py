"""Every check of the pipeline, by the step it looks at."""

from __future__ import annotations

from finetune_pipeline.checks import data, evaluation, training
from finetune_pipeline.checks.base import Check

CHECKS: list[Check] = [*data.CHECKS, *training.CHECKS, *evaluation.CHECKS]


def checks_of(step: str) -> list[Check]:
    """The checks of one step, in the order in which they are asked."""
    return [check for check in CHECKS if check.step == step]
