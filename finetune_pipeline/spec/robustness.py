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
        description=f"Test rows asked again with each perturbation. 0: none. With fewer than {ENOUGH_ROWS} a loss only warns.",
    )
    max_drop: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Largest loss of gates.metric that a perturbation may cause.",
    )
    action: Literal["warn", "block"] = Field(
        "block",
        description="`block` keeps `champion` where it is; `warn` only reports.",
    )
    seed: int = Field(0, ge=0)

    def asked(self) -> list[int]:
        """The part of this that answers depend on; nothing where nothing is asked."""
        return [self.rows, self.seed] if self.rows else []
