"""Typed facts of earlier steps that the evaluation reads. Other keys are kept unchanged."""

from typing import Annotated

from pydantic import Field

from finetune_pipeline.evaluation.ability.drop import Ability
from finetune_pipeline.evaluation.preferences.judge import JudgeFindings, Similarity
from finetune_pipeline.evaluation.preferences.people import People
from finetune_pipeline.evaluation.result_parts import Count, Facts, Flag, Number, Part
from finetune_pipeline.models.facts import Parity
from finetune_pipeline.training.audit import SplitAudit
from finetune_pipeline.training.facts import AnyTraining, Measured

Counts = dict[str, int | dict[str, int | None] | None]
"""Rows by name, or by two names."""


class Power(Facts):
    """Whether the test can show the required gain (planning.power)."""

    must_reach: Number = None
    enough: Flag = None
    sentence: str = ""


class Advice(Facts):
    """The advice before training (baseline.decision)."""

    decision: str
    reasons: list[str]


class Baseline(Facts):
    """Facts of few_shot_baseline and advice. `best`: the best prompt."""

    best: str | None = None
    power: Power | None = None
    advice: Advice | None = None


class RawFile(Facts):
    file: str = ""
    sha256: str = ""
    bytes: int | None = None


class DataStep(Facts):
    """Rows in and out of one data step, and what it found. `counts`: rows by split, or by split and label."""

    lines: Count = None
    rows_in: Count = None
    kept: Count = None
    quarantined: Count = None
    exact_duplicates: Count = None
    near_duplicates: Count = None
    dropped: Count = None
    files: list[RawFile] = []
    by_rule: dict[str, Count] = {}
    scrubbed: dict[str, Count] = {}
    counts: Counts = {}
    labels: Counts = {}
    origins: Counts = {}
    leaks: dict[str, Count] | int | None = None


class Spread(Facts):
    """Minimum, median, 99th percentile and maximum."""

    min: Count = None
    p50: Count = None
    p99: Count = None
    max: Count = None


class RequestTokens(Facts):
    """Mean tokens per request."""

    prompt: float
    answer: float


class TimeRange(Facts):
    """A range of seconds."""

    low: Number = None
    high: Number = None


class RequestPrice(Facts):
    """Dollars per 1,000 requests to one model. evaluated: whether the candidate was compared with this API model."""

    where: str
    how: str
    dollars: float
    date: str
    evaluated: bool = False


class SimpleCost(Facts):
    """What a simple model costs here. `fit_seconds`: of a CPU, the reading of texts by an encoder included. `p50`, `p95`:
    milliseconds of one call alone. `megabytes`: on disk, its encoder included."""

    fit_seconds: Number = None
    p50: Number = None
    p95: Number = None
    megabytes: Number = None


class Cost(Facts):
    """Time, memory and tokens of training and using the candidate (predictions.costs), and requests by the price list. `month`:
    dollars of serving advise.calls_per_month, by kind of model (serving_costs.month_by_kind). `simple`: by
    name of the simple model. `milliseconds`: mean time of an answer to the sealed test on this machine, in batches, by language
    model; only of those that were asked, and not answered from the cache."""

    steps: dict[str, Measured] = {}
    seconds: Number = None
    planned: TimeRange | None = None
    tokens: dict[str, RequestTokens] = {}
    saved_share: Number = None
    requests: list[RequestPrice] = []
    month: dict[str, Number] = {}
    simple: dict[str, SimpleCost] = {}
    milliseconds: dict[str, Number] = {}


class QualityPart(Facts):
    """One question asked of all rows."""

    passed: Flag = None
    message: str = ""


class QualityTokens(Facts):
    """Tokens of whole rows."""

    whole: Spread | None = None


class Quality(Facts):
    """Facts of data_quality."""

    parts: dict[str, QualityPart] | None = None
    tokens: QualityTokens | None = None


class StepFacts(Part):
    """Facts of earlier steps that the evaluation reads. `supervision`: the audit's counters, by split. training, parity: None where
    nothing was trained."""

    baseline: Baseline
    training: Annotated[AnyTraining | None, Field(union_mode="left_to_right")]
    data: dict[str, DataStep]
    parity: Parity | None
    ability: Ability | None = None
    people: People | None = None
    judge: JudgeFindings | None = None
    similarity: Similarity | None = None
    supervision: dict[str, SplitAudit] | None = None
    cost: Cost | None = None
    quality: Quality | None = None
