"""Every check of the pipeline, by the step it looks at."""

from __future__ import annotations

from finetune_pipeline.engine.checks import Check
from finetune_pipeline.steps import data_checks as data
from finetune_pipeline.steps import evaluation_checks as evaluation
from finetune_pipeline.steps import production_checks as production
from finetune_pipeline.steps import training_checks as training

CHECKS: list[Check] = [*data.CHECKS, *training.CHECKS, *evaluation.CHECKS, *production.CHECKS]


def checks_of(step: str) -> list[Check]:
    """The checks asked when a step's artifact is made, in this order."""
    return [check for check in CHECKS if check.step == step and not check.live]
