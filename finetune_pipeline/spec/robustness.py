"""What a user may write about test rows asked a second time, lightly perturbed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune_pipeline.spec.outputs import Section

ENOUGH_ROWS = 60
"""Rows on which a loss may hold a candidate back. On fewer it only warns."""


class RobustnessSpec(Section):
    """The same sealed rows, lightly perturbed: does the model still answer them? Asked in the same opening of the test."""

    rows: int = Field(
        ENOUGH_ROWS,
        ge=0,
        description="Test rows that are asked again with each perturbation, drawn by seed and id. 0: none. On fewer than "
        f"{ENOUGH_ROWS} a loss only warns.",
    )
    max_drop: float = Field(
        0.1,
        gt=0,
        le=1,
        description="How much of gates.metric a perturbation may cost; a larger drop that is surely a loss is too much.",
    )
    action: Literal["warn", "block"] = Field(
        "block",
        description="What to do when typing errors, another case or a greeting and thanks cost more: only warn, or keep "
        "`champion` where it is.",
    )
    seed: int = Field(0, ge=0)

    def asked(self) -> list[int]:
        """The part of this that answers depend on; nothing where nothing is asked."""
        return [self.rows, self.seed] if self.rows else []
