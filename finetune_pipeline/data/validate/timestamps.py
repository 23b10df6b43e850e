"""Points in time as rows give them, as RFC 3339 in UTC."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from typing import Any

from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.findings import Finding

_LATEST = 32_503_680_000  # the year 3000, in seconds since 1970: a larger number counts something smaller than seconds


def utc_text(moment: datetime) -> str:
    """RFC 3339 in UTC, such as 2026-05-01T12:00:00Z; fractions of a second only where there are any."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def read_time(value: Any, place: str) -> tuple[str | None, list[Finding]]:
    """(RFC 3339 in UTC or None, findings) of RFC 3339 text, of seconds since 1970, or of a date of Python's own.

    A time without a zone is read as UTC, with a warning.
    """
    if value is None or value == "":
        return None, []
    moment: datetime | None = None
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime(value.year, value.month, value.day, tzinfo=UTC)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value) or abs(value) > _LATEST:
            return None, [_bad(value, place, "seconds since 1970 are meant; divide milliseconds by 1000")]
        try:
            moment = datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            return None, [_bad(value, place, "write RFC 3339, such as 2026-05-01T12:00:00Z")]
    elif isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            return None, [_bad(value, place, "write RFC 3339, such as 2026-05-01T12:00:00Z")]
    if moment is None:
        return None, [_bad(value, place, "write RFC 3339, such as 2026-05-01T12:00:00Z")]
    found = []
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
        found = [
            Finding(
                "data.time_without_zone",
                "warning",
                place,
                f"`time` is {quoted(value)}, without a time zone; it was read as UTC",
                "add Z, or the offset from UTC, such as +02:00",
            )
        ]
    try:
        return utc_text(moment), found
    except (ValueError, OverflowError):  # an offset that leads out of the years 1 to 9999
        return None, [_bad(value, place, "write RFC 3339, such as 2026-05-01T12:00:00Z")]


def _bad(value: Any, place: str, fix: str) -> Finding:
    return Finding("data.bad_time", "error", place, f"`time` is {quoted(value)}, not a point in time", fix)
