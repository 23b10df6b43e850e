"""One part of the data quality report."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.findings import Finding, as_rows

PLACES = 20
"""Number of rows named in a finding."""


class QualityPart(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """One question asked of all rows. blocking: whether a failure stops training."""

    passed: bool
    message: str
    blocking: bool = False


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


class QualityFacts(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """Facts of data_quality. blocked_by: parts that stop training; to_review: synthetic rows that wait for a decision."""

    passed: bool
    parts: dict[str, QualityPart]
    rows: int = 0
    blocked_by: list[str] = []
    by_rule: dict[str, int] = {}
    to_review: int = 0
    tokens: QualityTokens | None = None


def sampled(examined: int, total: int) -> dict[str, Any]:
    """Return the note that only a sample was examined; empty if all rows were."""
    return {"sampled": examined, "of": total} if examined < total else {}


def named(examples: Iterable[Example], limit: int | None = PLACES) -> list[dict[str, str]]:
    """Return place and id of the first rows."""
    return [{"place": e.place, "id": e.id} for e in islice(examples, limit)]


def part(
    passed: bool, message: str, *, blocking: bool = False, findings: Sequence[Finding] = (), **details: Any
) -> dict[str, Any]:
    """Make one part of the report: passed, a sentence, whether a failure stops training, and figures. The note of
    :func:`sampled` is added to the sentence."""
    if "sampled" in details:
        message += f" (looked at {details['sampled']:,} of {details['of']:,} rows, chosen by hash)"
    return {"passed": passed, "message": message, "blocking": blocking, **details, "findings": as_rows(findings)}
