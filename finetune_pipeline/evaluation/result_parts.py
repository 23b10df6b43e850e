"""Parts of an evaluation's result: numbers and intervals that are finite or None, scores of one model, perturbed rows, and
results of gates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, computed_field

from finetune_pipeline.engine.facts import to_json
from finetune_pipeline.evaluation.calibration import Calibration, Unit
from finetune_pipeline.evaluation.metrics import is_right_or_wrong
from finetune_pipeline.evaluation.wording import is_interval, is_number


def finite(value: Any) -> float | None:
    """Return a finite number as it is, and None for None and for a number that is not finite. Raises ValueError for anything
    else, which is a fault of the code that measured it."""
    value = value.item() if hasattr(value, "item") else value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if not is_number(value):
        raise ValueError(f"{value!r} is not a number")
    return value


def _interval(value: Any) -> tuple[float, float] | None:
    """Return an interval of two finite numbers in order; None if it, or one of its ends, was not measured."""
    if value is None:
        return None
    if not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"{value!r} is not an interval")
    low, high = map(finite, value)
    if low is None or high is None:
        return None
    if low > high:
        raise ValueError(f"{value!r} is not an interval: its ends are not in order")
    return low, high


Number = Annotated[int | float | None, BeforeValidator(finite)]
"""A number; None where it was not measured or is not finite."""
Count = Annotated[int | None, Strict()]
"""A whole number; None where it was not counted."""
Flag = Annotated[bool | None, Strict()]
"""True or False; None where it was not asked."""
Interval = Annotated[tuple[float, float] | None, BeforeValidator(_interval)]
"""Lower and upper bound; None where they were not measured or are not finite."""


class Part(BaseModel):
    """A part of a result made by the evaluation."""

    model_config = ConfigDict(frozen=True, protected_namespaces=(), populate_by_name=True)

    def to_json(self) -> dict[str, object]:
        """Plain JSON under the published names, as in report.json."""
        return dict(to_json(self))


class Facts(Part):
    """A part with another step's facts: extra keys are kept, missing ones are None."""

    model_config = ConfigDict(extra="allow")


class Primary(Part):
    """The metric that decides."""

    name: str
    value: Number = None
    interval: Interval = None


class Rate(Facts):
    """A share of rows, k of n, with its Wilson interval. right_if_repaired: of repaired JSON, answers that would be right."""

    k: Count = None
    n: Count = None
    share: Number = None
    interval: Interval = None
    design_effect: Number = None
    right_if_repaired: Count = None


class ClassScores(Part):
    """Scores of one label. `support`: rows with this reference; `predicted`: rows with this answer."""

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
    """Answers with a confidence between `low` and `high`."""

    low: float
    high: float
    n: int
    confidence: Number = None
    accuracy: Number = None


class LabelCalibration(Part):
    """Calibration of label likelihoods (see scores.calibration)."""

    n: int
    confidence: Number = None
    accuracy: Number = None
    ece: Number = None
    brier: Number = None
    log_loss: Number = None
    reliability: list[Bin] = []


class TestedThreshold(Part):
    """A threshold of the answer's probability on the sealed test. p: of the exact test that too many answered rows are wrong."""

    __test__ = False  # not a test class, whatever its name says

    threshold: float
    answered: int
    mistakes: int
    p: float
    upper_bound: float


class Attainable(Part):
    """An error that could have been promised, and the share of rows that would be answered."""

    max_error: float
    coverage: float


class Automation(Part):
    """Which share of the rows is answered without a person at a promised error (see automation.certify).

    Attributes:
        unit: What is counted: whole answers, or of each row one field, drawn by the row's id.
        threshold: The certified one; none if the promise could not be shown.
        possible: Number of thresholds that could have been certified: the first that was tested and all looser ones.
        fields: The fields that may be drawn.
        needed: Answered rows without a mistake that show it.
        coverage: Share of rows answered at it, or of fields.
        whole_coverage: With unit field: share of rows none of whose fields is passed on; none without a threshold.
        mistakes_passed_on: Of `all_mistakes`, those below it.
        attainable: If the promise could not be shown: the least of a few larger errors that could have been.
        rows_for_it: If it could not be shown: test rows that probably would; none if too many answers are wrong.
    """

    max_error: float
    alpha: float
    unit: Unit = "answer"
    fields: list[str] = []
    n: int
    needed: int
    threshold: float | None
    possible: int = 0
    answered: int
    mistakes: int
    upper_bound: float | None
    coverage: float
    coverage_interval: tuple[float, float]
    whole_coverage: float | None = None
    passed_on: int
    mistakes_passed_on: int
    all_mistakes: int
    tested: list[TestedThreshold]
    attainable: Attainable | None = None
    rows_for_it: Count = None


class Reliability(Part):
    """How far probabilities are from the share of right answers on the sealed test. `interval`: of the calibration error `ece`."""

    n: int
    confidence: Number = None
    accuracy: Number = None
    ece: Number = None
    interval: Interval = None
    reliability: list[Bin] = []


class Probabilities(Part):
    """The probability of one model's answers, calibrated on validation and measured on the sealed test.

    Attributes:
        labels: The probability is that of the likeliest of these; empty: that of token_probabilities.
        before, after: Before and after calibration; None without a right or wrong answer that has a probability.
        parts: The same by label, or by field of JSON, where there are rows enough.
        automation: The promise; None without automation.max_error.
    """

    calibration: Calibration
    labels: list[str] = []
    before: Reliability | None = None
    after: Reliability | None = None
    parts: dict[str, Reliability] = {}
    automation: Automation | None = None


class LabelDetails(Part):
    """Scores of answers with labels. absent_labels: those without a row, which macro-F1 leaves out. confusion: with a last column
    for invalid answers."""

    per_class: dict[str, ClassScores] = {}
    absent_labels: list[str] = []
    confusion: Confusion | None = None
    calibration: LabelCalibration | None = None


class JsonDetails(Part):
    """Scores of JSON answers by field, and rates: they comply with the `schema`, are `strict` JSON, or JSON after repair."""

    fields: dict[str, FieldScores] = {}
    form: dict[str, int] = {}
    strict: Rate | None = None
    schema_rate: Rate | None = Field(None, alias="schema")
    repaired: Rate | None = None


class TextDetails(Part):
    """Scores of texts: BLEU and chrF of the `corpus`, and rates of looping texts, refusals and, with output.extract, final answers.
    length_ratio: mean length of the answers, each relative to its reference, in characters."""

    form: dict[str, int] = {}
    extracted: Rate | None = None
    repetition: Rate | None = None
    refusal: Rate | None = None
    length_ratio: Number = None
    corpus: dict[str, float] | None = None


class Scores(LabelDetails, JsonDetails, TextDetails, Facts):
    """Scores of one model on one set of rows (see scores.score). The kind of output determines which are set.

    Further keys hold the other metrics, with their intervals; read numbers by :meth:`metric`. valid: finished answers in the
    declared form.
    """

    primary: Primary
    n: Count = None
    correct: Count = None
    accuracy: Number = None
    interval: Interval = None
    valid: Rate = Rate()
    statuses: dict[str, Count] = {}
    macro_f1: Number = None

    def metric(self, name: str) -> float | None:
        """A metric by name; None if this kind of output does not have it."""
        return finite(getattr(self, name, None))

    def metric_interval(self, name: str) -> tuple[float, float] | None:
        interval = getattr(self, f"{name}_interval", None) if not is_right_or_wrong(name) else self.interval
        return (interval[0], interval[1]) if is_interval(interval) else None


class ModelRow(Part):
    """A row of the table that shows all models side by side. `set`: validation or test; `value`: metric that decides;
    `coverage`: share of rows that it answers by itself at the promised error (automation.max_error)."""

    title: str
    set: str
    n: Count = None
    correct: Count = None
    accuracy: Number = None
    interval: Interval = None
    value: Number = None
    value_interval: Interval = None
    coverage: Number = None
    valid_share: Number = None
    macro_f1: Number = None
    micro_f1: Number = None
    rougeLsum: Number = None

    @classmethod
    def of(cls, title: str, where: str, scores: Mapping[str, Any]) -> ModelRow:
        """The row for scores of scores.score, or of rivals.score_baselines, which keeps only the valid share."""
        names = ("n", "correct", "accuracy", "interval", "macro_f1", "micro_f1", "rougeLsum")
        copied = {name: scores.get(name) for name in names}
        valid, primary = scores.get("valid") or {"share": scores.get("valid_share")}, scores["primary"]
        value, interval = primary["value"], primary["interval"]
        return cls(title=title, set=where, valid_share=valid["share"], value=value, value_interval=interval, **copied)


class Sources(Part):
    """How many sources the test rows come from. `shared`: whether two rows come from one."""

    rows: int
    sources: int
    largest: int
    shared: bool


class PerturbedScores(Part):
    """The candidate's plain and perturbed answers to the same `n` rows. `failed`: other rows, whose answers could not be
    generated."""

    n: Count = None
    plain: Number = None
    perturbed: Number = None
    drop: Number = None
    interval: Interval = None
    lost: Count = None
    gained: Count = None
    p: Number = None
    failed: Count = None


class RobustnessVerdict(Part):
    """Whether the candidate still answers perturbed rows.

    Attributes:
        status: `failed` blocks the candidate; `warned` does not; `not_asked`: robustness.rows is 0.
        worst: The blocking kind that decides, else the one with the largest drop; None if nothing was measured.
    """

    status: Literal["passed", "failed", "warned", "not_asked"]
    sentence: str
    worst: str | None = None
    largest_drop: Number = None


class PerturbedRows(Part):
    """Perturbed test rows: at most `asked` of each kind, intervals at `confidence`, scores in `metric`."""

    asked: Count = None
    confidence: Number = None
    metric: str | None = None
    kinds: dict[str, PerturbedScores] = {}


class Robustness(PerturbedRows):
    """Perturbed test rows and what follows from them."""

    verdict: RobustnessVerdict


class ChosenRows(Part):
    """Which production rows were chosen, and how many were left out for which reason."""

    rows: Count = None
    confirmed: Count = None
    looked_at: Count = None
    left_out: dict[str, int] = {}
    first: str | None = None
    last: str | None = None


GateStatus = Literal["passed", "failed", "warned", "not_asked"]


class GateResult(Part):
    """One gate's result.

    Attributes:
        status: `warned`: failed, but the spec says it does not block. `not_asked`: there is nothing to judge, such as no
            champion to beat.
        measured: The number compared with the threshold, or None if nothing could be measured.
        what_to_do: Empty if there is nothing to do.
    """

    name: str
    status: GateStatus
    measured: float | None
    threshold: float | None
    message: str
    what_to_do: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        return self.status != "failed"
