"""Which split each row ever was given: a file that only grows, so that a row keeps its split for good."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.data.json_lines import read_rows

SPLITS = ("train", "validation", "test")


class Ledger:
    """Splits by name of a row. A row has two names: its id (content as it came in) and its key (what the user says).

    The id survives a change of the scrubbing rules, the key a change of the answer or of the system prompt.
    """

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self._by_id = {row["id"]: row["split"] for row in rows}
        self._by_key = {row["key"]: row["split"] for row in rows}

    def split_of(self, row_id: str, key: str) -> str | None:
        """The split a row was given before, or None."""
        return self._by_key.get(key) or self._by_id.get(row_id)


def read_ledger(path: Path) -> Ledger:
    """The ledger; an empty one when there is no file. Raises ValueError for a broken line: it must not be guessed."""
    if not path.exists():
        return Ledger([])
    rows = read_rows(path)
    for number, row in enumerate(rows, 1):
        if row.get("split") not in SPLITS or not all(isinstance(row.get(k), str) for k in ("id", "key", "cluster")):
            raise ValueError(f"{path}: entry {number} is not a split assignment; restore the file from a backup")
    return Ledger(rows)


def record_assignments(out: Path, ledger: Path) -> int:
    """Add the assignments of a published split (``out/assignments.jsonl``) to the ledger. Returns the entries added.

    All or nothing, durable when it returns, safe to repeat and to run from two processes. Raises RuntimeError if the
    ledger gives one of the rows another split: two splits were made from one state of it; the later must be redone.
    """
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with ledger.with_name(ledger.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = read_ledger(ledger)
        names = {(row["id"], row["key"]): row["split"] for row in known.rows}
        added: list[dict[str, Any]] = []
        moved: list[str] = []
        for row in read_rows(out / "assignments.jsonl"):
            name = (row["id"], row["key"])
            before = names.get(name) or known.split_of(*name)
            if before not in (None, row["split"]):
                moved.append(f"{row['id']} was in {before}, now {row['split']}")
            elif name not in names:
                names[name] = row["split"]
                added.append({k: row[k] for k in ("key", "id", "split", "cluster")})
        if moved:
            raise RuntimeError(
                f"{len(moved)} rows would move between splits: {'; '.join(moved[:5])}. "
                "Another run has split the task meanwhile; run the split again"
            )
        if added:
            _replace(ledger, [*known.rows, *added])
    return len(added)


def _replace(path: Path, rows: list[dict[str, Any]]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as out:
        for row in rows:
            out.write(msgspec.json.encode(row) + b"\n")
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
