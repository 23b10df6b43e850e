"""What comes back other than through the page's own server: put in the page's form, and stored once, however often it is
handed in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.people.desks import Desk
from finetune_pipeline.people.server import append_line


def line_of(
    desk: Desk, item: str, choice: str, *, rater: str, comment: str = "", answer: str = "", time: str = ""
) -> dict:
    """A decision in the form in which the page hands it in. answer: the right one, for a choice that asks for it."""
    if desk.mode == "outputs":
        return {"sheet": desk.sheet, "id": item, "choice": choice, "rater": rater, "comment": comment, "time": time}
    label = answer if any(c["value"] == choice and c.get("answer") for c in desk.choices) else ""
    return {"id": item, "decision": choice, "label": label, "reviewer": rater, "comment": comment, "time": time}


def store(desk: Desk, by_rater: Mapping[str, Sequence[dict[str, Any]]]) -> tuple[int, int, list[str]]:
    """Append what is not there yet: (rows added, rows that were there word for word, files)."""
    added = known = 0
    files = []
    for rater, rows in by_rater.items():
        target = desk.target(rater)
        there = _rows(target)
        for row in rows:
            if row in there:
                known += 1
                continue
            append_line(target, row)
            there.append(row)
            added += 1
        files.append(str(target))
    return added, known, files


def _rows(path: Path) -> list[Any]:
    """What a file holds. People may have written into it: a line that is no JSON is named when it is read in earnest."""
    rows = []
    for line in path.read_text("utf-8-sig", errors="replace").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows
