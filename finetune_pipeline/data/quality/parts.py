"""The parts of the data quality report."""

from collections.abc import Iterable
from itertools import islice

import msgspec

from finetune_pipeline.data.examples import Example
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.findings import Finding

PLACES = 20
"""Number of rows named in a finding."""


class QualityPart(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """One question asked of all rows. blocking: whether a failure stops training."""

    passed: bool
    message: str
    blocking: bool = False


class Place(Facts, frozen=True, kw_only=True):
    """Place and id of a row."""

    place: str
    id: str


class Part(QualityPart, frozen=True, kw_only=True, omit_defaults=False):
    """A part with its findings. applies: whether the question makes sense for the task."""

    findings: list[Finding] = []
    applies: bool = True


class Spread(Facts, frozen=True, kw_only=True):
    """Quantiles of the tokens of whole rows."""

    min: int
    p50: int
    p90: int | None = None
    p99: int
    max: int
    mean: float | None = None


class QualityTokens(Facts, frozen=True, kw_only=True):
    """Tokens of all training rows, as training_tokens times epochs and with copies; None where they were not counted."""

    total: int | None = None
    training_tokens: int | None = None
    whole: Spread | None = None


class Bin(Facts, frozen=True, kw_only=True):
    """A bar of a histogram: how many rows have from `first` to `last` tokens."""

    first: int = msgspec.field(name="from")
    last: int = msgspec.field(name="to")
    count: int


class TokensPart(Part, frozen=True, kw_only=True, omit_defaults=False):
    """Tokens of the training rows, as they are rendered for training; no figures where they were not counted.

    Attributes:
        rows: Of the training split. sampled, of_rows: How many of them were counted, if not all.
        total: Tokens of all rows; training_tokens: the same with the copies of training.augment, times epochs.
        over: Rows above max_tokens, the limit of training or of the base model. refused: rows that cannot be encoded.
    """

    rows: int = 0
    total: int | None = None
    epochs: float = 0
    training_tokens: int | None = None
    whole: Spread | None = None
    histogram: list[Bin] = []
    max_tokens: int = 0
    over: int = 0
    over_rows: list[Place] = []
    refused: int = 0
    sampled: int | None = None
    of_rows: int | None = msgspec.field(default=None, name="of")


class QualityFacts(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """Facts of data_quality. blocked_by: parts that stop training; to_review: synthetic rows that wait for a decision."""

    passed: bool
    parts: dict[str, QualityPart]
    rows: int = 0
    blocked_by: list[str] = []
    by_rule: dict[str, int] = {}
    to_review: int = 0
    tokens: QualityTokens | None = None


def sample_note(examined: int, total: int) -> str:
    """Return the end of a sentence which says that only a sample was examined; empty if all rows were."""
    return f" (looked at {examined:,} of {total:,} rows, chosen by hash)" if examined < total else ""


def named(examples: Iterable[Example], limit: int | None = PLACES) -> list[Place]:
    """Return place and id of the first rows."""
    return [Place(place=e.place, id=e.id) for e in islice(examples, limit)]
