"""The valid rows of a stage, scrubbed, as columns and sketches: sets are compared without decoding their texts again."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import compress
from pathlib import Path

import numpy as np

from finetune_pipeline.data.dedup.boilerplate import Boilerplate
from finetune_pipeline.data.dedup.near_duplicates import COLUMNS, loose_forms, sketch
from finetune_pipeline.data.dedup.text_similarity import exact_form, loosened
from finetune_pipeline.data.examples import ORIGINS, Example, decode_examples
from finetune_pipeline.data.json_lines import read_blocks_of_lines
from finetune_pipeline.data.workers import in_order
from finetune_pipeline.progress import tell
from finetune_pipeline.spec import TaskSpec

TABLE, ALL_ROWS = "rows.npy", "rows.jsonl"
KEPT, EXACT, NEAR, CONTRADICTION, GONE = range(5)
"""State of a row: kept; exact or near duplicate; contradiction; or removed for another reason (personal data, benchmark item,
reviewer)."""
ROW = np.dtype(
    [
        ("id", "<u8"),  # the example's id as a number
        ("prompt", "<u8"),  # hash of what the user says, in exact form
        ("group", "<u8"),  # hash of the declared group; 0: none
        ("cluster", "<u8"),  # the smallest id in the row's cluster
        ("time", "<f8"),  # seconds since 1970; nan: none
        ("label", "<i4"),  # index in the spec's labels; -1: none
        ("origin", "<u1"),  # index in ORIGINS
        ("state", "<u1"),
        ("start", "<u8"),  # where the row's line begins in rows.jsonl, in bytes
        ("end", "<u8"),
    ]
)
"""A record of ``rows.npy``: one for every valid row, including removed ones."""


def hash_text(text: str) -> int:
    """Return the first 64 bits of the text's SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def prompt_hash(user_text: str) -> int:
    """Return a 64-bit hash of the user's text in exact form, which is equal for rows with the same prompt."""
    return hash_text(exact_form(user_text))


def group_hash(group: str | None) -> int:
    """Return a 64-bit hash of a declared group; 0 without one."""
    return (hash_text(group) or 1) if group else 0  # no group has the hash 0


def count_values(values: np.ndarray, mask: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    """Count the rows with each value, an index in `names`; -1 is not counted. mask: which rows to count (bool)."""
    counts = np.bincount(values[mask].astype(np.int64) + 1, minlength=len(names) + 1)[1:]
    return {name: int(n) for name, n in zip(names, counts, strict=True)}


@dataclass(frozen=True)
class RowTable:
    """The records (ROW) of a stage's rows, and the file (``rows.jsonl``) with the rows."""

    rows: np.ndarray
    path: Path

    def lines(self, which: np.ndarray) -> bytes:
        """Read the lines of these rows (int64, ascending)."""
        pieces = []
        starts, ends = self.rows["start"][which], self.rows["end"][which]
        is_gap = starts[1:] != ends[:-1]  # rows without a gap are read at once
        begins, stops = starts[np.append(True, is_gap)[: len(which)]], ends[np.append(is_gap, True)[: len(which)]]
        with self.path.open("rb") as handle:
            for start, end in zip(begins.tolist(), stops.tolist(), strict=True):
                handle.seek(start)
                pieces.append(handle.read(end - start))
        return b"".join(pieces)

    def fetch(self, which: np.ndarray) -> list[Example]:
        """Read the examples of these rows (int64), in the given order."""
        order = np.argsort(which, kind="stable")
        examples = decode_examples(self.lines(which[order]), str(self.path))
        return [examples[i] for i in np.argsort(order).tolist()]


def write_kept(table: RowTable, path: Path) -> None:
    """Write the lines of the rows that are kept, in their order."""
    with table.path.open("rb") as lines, path.open("wb") as out:
        out.writelines(compress(lines, (table.rows["state"] == KEPT).tolist()))


@dataclass
class DescribedRows:
    """Rows ready for comparison: a value for each row.

    Attributes:
        rows: Their records (ROW); all have the state KEPT and no cluster yet.
        sketches: Sketches of their prompts.
        normal_keys: Hashes of their prompts' loose forms, boilerplate included (uint64, [n]).
    """

    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, ROW))
    sketches: np.ndarray = field(default_factory=lambda: np.zeros((0, COLUMNS), np.uint32))
    normal_keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))


def describe_rows(path: Path, boilerplate: Boilerplate, spec: TaskSpec) -> DescribedRows:
    """Describe the rows of a file for comparison. boilerplate: removed from prompts before."""
    columns: dict[str, list[np.ndarray]] = {name: [getattr(DescribedRows(), name)] for name in _COLUMNS}
    rows = offset = 0
    describe = partial(describe_block, boilerplate=boilerplate, spec=spec)
    for block in in_order(describe, read_blocks_of_lines(path), path.stat().st_size):
        block.rows["start"] += offset
        block.rows["end"] += offset
        offset = int(block.rows["end"][-1])
        rows += len(block.rows)
        for name, parts in columns.items():
            parts.append(getattr(block, name))
        tell("clean_examples", f"{rows} rows sketched", rows=rows)
    return DescribedRows(**{name: np.concatenate(parts) for name, parts in columns.items()})


def describe_block(data: bytes, boilerplate: Boilerplate, spec: TaskSpec) -> DescribedRows:
    """Describe rows given as complete lines of canonical JSON."""
    examples = decode_examples(data, "scrubbed examples")
    user_texts = [e.user_text for e in examples]
    exact = [exact_form(text) for text in user_texts]
    rows = np.zeros(len(examples), ROW)
    ranks = {label: i for i, label in enumerate(spec.labels)}
    rows["id"] = [int(e.id, 16) for e in examples]
    rows["prompt"] = [hash_text(form) for form in exact]
    rows["group"] = [group_hash(e.group) for e in examples]
    rows["time"] = [datetime.fromisoformat(e.time).timestamp() if e.time else np.nan for e in examples]
    rows["label"] = [ranks.get(e.label or "", -1) for e in examples]
    rows["origin"] = [ORIGINS.index(e.origin) for e in examples]
    rows["end"] = np.cumsum([len(line) for line in data.splitlines(keepends=True)])
    rows["start"][1:] = rows["end"][:-1]
    sketches = sketch(loose_forms(user_texts, boilerplate, exact), spec.data.near_duplicate_threshold)
    return DescribedRows(rows, sketches, np.array([hash_text(loosened(form)) for form in exact], np.uint64))


_COLUMNS = ("rows", "sketches", "normal_keys")
