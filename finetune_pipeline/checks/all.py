"""Every check of the pipeline, by the step it looks at."""

from __future__ import annotations

from finetune_pipeline.checks import data, evaluation, production, training
from finetune_pipeline.checks.base import Check

CHECKS: list[Check] = [*data.CHECKS, *training.CHECKS, *evaluation.CHECKS, *production.CHECKS]


def checks_of(step: str) -> list[Check]:
    """The checks asked when a step's artifact is made, in this order."""
    return [check for check in CHECKS if check.step == step and not check.live]
