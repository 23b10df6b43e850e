"""The sealed test set: one door, and a ledger of everyone who went through it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LEDGER = "test_openings.jsonl"


def openings(state: Path, test: str) -> list[dict[str, Any]]:
    """All recorded openings of the test set of this version, oldest first."""
    path = state / LEDGER
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    return [row for row in rows if row["test"] == test]


def open_sealed(sealed: Path, state: Path, *, test: str, candidate: str, reason: str) -> Path:
    """Record an opening of the test set for a candidate, durably, and only then hand out the path of its rows.

    test, candidate: versions. The same candidate again (a rerun after a kill) is the same opening, not a second look.
    """
    if not any(row["candidate"] == candidate for row in openings(state, test)):
        line = (
            json.dumps(
                {
                    "test": test,
                    "candidate": candidate,
                    "reason": reason,
                    "time": datetime.now(UTC).isoformat(timespec="seconds"),
                }
            )
            + "\n"
        )
        with (state / LEDGER).open("a", encoding="utf-8") as ledger:
            ledger.write(line)
            ledger.flush()
            os.fsync(ledger.fileno())
    return sealed
