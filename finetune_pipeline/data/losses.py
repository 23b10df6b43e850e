"""Counts the rows that a task lost on the way to its splits, by stage and label; plain duplicates are no loss."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from finetune_pipeline.engine.facts import Facts


@dataclass(frozen=True)
class Losses:
    """Rows lost so far.

    Attributes:
        rows_read: All raw rows.
        stages: Lost rows by stage, in order; rows that an annotator rejected are not lost.
        labels: Lost rows by label; label_rows: all rows by label.
    """

    rows_read: int
    stages: dict[str, int]
    labels: dict[str, int]
    label_rows: dict[str, int]

    @property
    def share(self) -> float:
        return sum(self.stages.values()) / max(1, self.rows_read)

    def then(self, stage: str, rows: int, labels: Mapping[str, int] | None = None) -> "Losses":
        """Return these losses with those of a later stage."""
        by_label = {label: lost + (labels or {}).get(label, 0) for label, lost in self.labels.items()}
        return replace(self, stages={**self.stages, stage: rows}, labels=by_label)

    def words(self) -> str:
        listed = ", ".join(f"{n} in {stage}" for stage, n in self.stages.items())
        return f"{sum(self.stages.values())} of {self.rows_read} rows ({self.share:.1%}) are lost: {listed}"


class Lost(Facts, frozen=True, kw_only=True):
    """The rows lost so far, as the facts of several steps contain them."""

    losses: Losses
