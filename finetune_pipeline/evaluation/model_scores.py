"""Typed scores of one model on one set of rows."""

from __future__ import annotations

from pydantic import Field

from finetune_pipeline.evaluation.measured import Count, Facts, Interval, Number, Part, finite
from finetune_pipeline.evaluation.metrics import is_right_or_wrong
from finetune_pipeline.evaluation.wording import is_interval


class Primary(Part):
    """The metric that decides."""

    name: str
    value: Number = None
    interval: Interval = None


class Rate(Facts):
    """A share of rows with its Wilson interval."""

    k: Count = None
    n: Count = None
    share: Number = None
    interval: Interval = None


class Valid(Part):
    """Finished answers in the declared form."""

    valid: Count = None
    n: Count = None
    share: Number = None
    interval: Interval = None
    design_effect: Number = None


class ClassScores(Part):
    """Scores of one label. `support`: rows whose right answer it is; `predicted`: rows that were given it."""

    precision: Number = None
    recall: Number = None
    f1: Number = None
    support: Count = None
    predicted: Count = None


class FieldScores(Part):
    """Scores of one field of JSON answers, over all values claimed and expected."""

    precision: Number = None
    recall: Number = None
    f1: Number = None
    right: Count = None
    claimed: Count = None
    expected: Count = None


class Confusion(Part):
    """Rows by right label (`labels`) and answer (`columns`: the labels, and invalid answers last)."""

    labels: list[str]
    columns: list[str]
    counts: list[list[int]]


class Bin(Part):
    """Answers whose confidence lies between `low` and `high`."""

    low: float
    high: float
    n: int
    confidence: Number = None
    accuracy: Number = None


class Calibration(Part):
    """How the confidence of label likelihoods compares with accuracy (see calibration.calibration)."""

    n: int
    confidence: Number = None
    accuracy: Number = None
    ece: Number = None
    brier: Number = None
    log_loss: Number = None
    reliability: list[Bin] = []


class Scores(Facts):
    """Scores of one model on one set of rows (see metrics.score). Which are there depends on the kind of output."""

    primary: Primary
    n: Count = None
    correct: Count = None
    accuracy: Number = None
    interval: Interval = None
    valid: Valid = Valid()
    statuses: dict[str, Count] = {}
    macro_f1: Number = None
    per_class: dict[str, ClassScores] = {}
    absent_labels: list[str] = []
    confusion: Confusion | None = None
    calibration: Calibration | None = None
    fields: dict[str, FieldScores] = {}
    form: dict[str, int] = {}
    strict: Rate | None = None
    schema_rate: Rate | None = Field(None, alias="schema")
    repaired: Rate | None = None
    extracted: Rate | None = None
    repetition: Rate | None = None
    refusal: Rate | None = None

    def metric(self, name: str) -> float | None:
        """Return a metric by its name, None where this kind of output does not have it."""
        return finite(getattr(self, name, None))

    def metric_interval(self, name: str) -> tuple[float, float] | None:
        """Return the interval of a metric by its name."""
        interval = getattr(self, f"{name}_interval", None) if not is_right_or_wrong(name) else self.interval
        return (interval[0], interval[1]) if is_interval(interval) else None


class ModelRow(Part):
    """A row of the table that shows all models side by side. `set`: validation or test; `value`: metric that decides."""

    title: str
    set: str
    n: Count = None
    correct: Count = None
    accuracy: Number = None
    interval: Interval = None
    value: Number = None
    value_interval: Interval = None
    valid_share: Number = None
    macro_f1: Number = None
    micro_f1: Number = None
    rougeLsum: Number = None
    rougeLsum_interval: Interval = None
