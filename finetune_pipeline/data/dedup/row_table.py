"""The rows of a stage as columns, so that whole data sets are compared without decoding their texts again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import compress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from finetune_pipeline.data.dedup.text_similarity import exact_form
from finetune_pipeline.data.examples import ORIGINS, Example, decode_examples
from finetune_pipeline.data.scrub import scrub_example
from finetune_pipeline.findings import Finding

_RAW_SHOWN = 2000
TABLE, ALL_ROWS = "rows.npy", "rows.jsonl"
KEPT, EXACT, NEAR, CONTRADICTION, GONE = range(5)
"""What was decided about a row: it stays; it repeats another, exactly or nearly; it contradicts another; it was removed for
another reason (personal data, a benchmark's item, a reviewer)."""
ROW = np.dtype(
    [
        ("id", "<u8"),  # the example's id as a number
        ("prompt", "<u8"),  # hash of what the user says, in exact form
        ("group", "<u8"),  # hash of the declared group; 0: none
        ("cluster", "<u8"),  # the smallest id in the row's cluster
        ("time", "<f8"),  # seconds since 1970; nan: none
        ("label", "<i4"),  # place in the spec's labels; -1: none
        ("origin", "<u1"),  # place in ORIGINS
        ("state", "<u1"),
        ("start", "<u8"),  # where the row's line begins in rows.jsonl, in bytes
        ("end", "<u8"),
    ]
)
"""A record of ``rows.npy``: one for every valid row, those that were removed too."""


def hash_text(text: str) -> int:
    """The first 64 bits of the text's SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def prompt_hash(user_text: str) -> int:
    """64-bit name of what the user says (exact form): equal for rows that ask the same, whatever the answer is."""
    return hash_text(exact_form(user_text))


def group_hash(group: str | None) -> int:
    """64-bit name of a declared group; 0 for none."""
    return (hash_text(group) or 1) if group else 0


def table_of(examples: Sequence[Example], lines: Sequence[bytes], labels: Sequence[str]) -> np.ndarray:
    """The records (ROW) of examples and of their encoded lines; all are kept and have no cluster yet."""
    rows = np.zeros(len(examples), ROW)
    ranks = {label: i for i, label in enumerate(labels)}
    rows["id"] = [int(e.id, 16) for e in examples]
    rows["prompt"] = [prompt_hash(e.user_text) for e in examples]
    rows["group"] = [group_hash(e.group) for e in examples]
    rows["time"] = [datetime.fromisoformat(e.time).timestamp() if e.time else np.nan for e in examples]
    rows["label"] = [ranks.get(e.label or "", -1) for e in examples]
    rows["origin"] = [ORIGINS.index(e.origin) for e in examples]
    rows["end"] = np.cumsum([len(line) for line in lines])
    rows["start"][1:] = rows["end"][:-1]
    return rows


@dataclass(frozen=True)
class RowTable:
    """The records (ROW) of a stage's rows, and the file (``rows.jsonl``) with the rows."""

    rows: np.ndarray
    path: Path

    def fetch(self, which: np.ndarray) -> list[Example]:
        """The examples of these rows (int64), in the order asked for."""
        order = np.argsort(which, kind="stable")
        pieces = []
        with self.path.open("rb") as handle:
            for start, end in self.rows[["start", "end"]][which[order]].tolist():
                handle.seek(start)
                pieces.append(handle.read(end - start))
        examples = decode_examples(b"".join(pieces), str(self.path))
        found: list[Example | None] = [None] * len(which)
        for place, example in zip(order.tolist(), examples, strict=True):
            found[place] = example
        return [e for e in found if e is not None]


def write_kept(table: RowTable, path: Path) -> None:
    """Write the rows that stay."""
    kept = (table.rows["state"] == KEPT).tolist()
    with table.path.open("rb") as lines, path.open("wb") as out:
        out.writelines(compress(lines, kept))


def quarantine_row(example: Example, finding: Finding) -> dict[str, Any]:
    """A line of ``quarantine.jsonl``; the text is scrubbed and cut."""
    messages = scrub_example(example)[0].messages
    return {
        "file": example.source.get("file"),
        "line": example.source.get("line"),
        "raw": msgspec.json.encode({"id": example.id, "messages": messages}).decode()[:_RAW_SHOWN],
        "findings": [finding.to_dict()],
    }
