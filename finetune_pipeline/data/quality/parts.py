"""The form of a part of the report on data quality."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.findings import Finding, as_rows

PLACES = 20
"""Rows named beside a finding."""


def sampled(seen: int, of: int) -> dict[str, Any]:
    """What is said when not all rows were looked at; nothing when they were."""
    return {"sampled": seen, "of": of} if seen < of else {}


def named(examples: Iterable[Example], limit: int | None = PLACES) -> list[dict[str, str]]:
    """Place and id of the first rows."""
    return [{"place": e.place, "id": e.id} for e in islice(examples, limit)]


def part(
    passed: bool, message: str, *, blocking: bool = False, findings: Sequence[Finding] = (), **details: Any
) -> dict[str, Any]:
    """One part of the report: whether all is well, a sentence for people, whether a "no" stops training, figures. Details
    of :func:`sampled` are said in the sentence, too."""
    if "sampled" in details:
        message += f" (looked at {details['sampled']:,} of {details['of']:,} rows, chosen by hash)"
    return {"passed": passed, "message": message, "blocking": blocking, **details, "findings": as_rows(findings)}
