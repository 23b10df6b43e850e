"""The training history: one JSON object a line, appended while training, cut back when a run is taken up again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


def to_line(entry: Entry) -> str:
    """One entry as a line of the file."""
    return json.dumps(entry, allow_nan=False) + "\n"


def append(path: Path, entry: Entry) -> None:
    """Add one line {step, epoch, loss or eval_loss, learning_rate, seconds}."""
    with path.open("a", encoding="utf-8") as out:
        out.write(to_line(entry))


def read(path: Path) -> list[Entry]:
    """All whole lines, in order; a line torn by a kill at the end of the file is left out."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_text("utf-8").splitlines(keepends=True):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            if not line.endswith("\n"):
                break
            raise
    return entries


def cut_back(path: Path, step: int) -> list[Entry]:
    """Keep the entries up to `step`, those of a run that is taken up there. Returns them."""
    kept = [e for e in read(path) if e["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(to_line(e) for e in kept), "utf-8")
    os.replace(temporary, path)
    return kept


def without_times(entries: list[Entry]) -> list[Entry]:
    """The same entries without `seconds`, which differ from run to run."""
    return [{k: v for k, v in e.items() if k != "seconds"} for e in entries]
