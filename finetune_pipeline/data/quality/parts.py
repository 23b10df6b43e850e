"""One part of the data quality report."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.findings import Finding, as_rows

PLACES = 20
"""Number of rows named in a finding."""


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
