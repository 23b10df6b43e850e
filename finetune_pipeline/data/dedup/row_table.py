"""The table of a stage's valid rows: what is computed once of every scrubbed prompt, so that later steps compare rows without
reading their texts again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune_pipeline.data.dedup.boilerplate import Boilerplate
from finetune_pipeline.data.dedup.near_duplicates import COLUMNS, loose_forms, sketch
from finetune_pipeline.data.dedup.text_similarity import exact_form, loosened
from finetune_pipeline.data.dedup.tokens import token_sets, token_space
from finetune_pipeline.data.examples import ORIGINS, Example, decode_examples
from finetune_pipeline.data.json_lines import read_blocks_of_lines
from finetune_pipeline.data.workers import in_order
from finetune_pipeline.progress import tell
from finetune_pipeline.spec import TaskSpec

if TYPE_CHECKING:
    import pyarrow as pa
    from scipy.sparse import csr_matrix

TABLE, ALL_ROWS = "rows.parquet", "rows.jsonl"
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
"""A record of the table: one for every valid row, including removed ones."""


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


def _prompt_schema() -> pa.Schema:
    import pyarrow as pa

    sketches = pa.list_(pa.uint32(), COLUMNS)
    return pa.schema([("form", pa.string()), ("sketch", sketches), ("tokens", pa.list_(pa.int32()))])


def save_rows(folder: Path, rows: np.ndarray, prompts: pa.Table | None = None) -> None:
    """Write the records of rows (ROW), and what is known of their prompts (see :class:`RowTable`), into an artifact's table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: rows[name] for name in ROW.names or ()}
    known = {} if prompts is None else {name: prompts[name] for name in prompts.column_names}
    pq.write_table(pa.table({**columns, **known}), folder / TABLE)


def load_rows(folder: Path) -> np.ndarray:
    """Read the records of rows (ROW) from an artifact's table."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder / TABLE, columns=list(ROW.names or ()))
    rows = np.zeros(len(table), ROW)
    for name in table.column_names:
        rows[name] = table[name].to_numpy()
    return rows


@dataclass(frozen=True)
class RowTable:
    """The rows of a stage.

    Attributes:
        rows: Their records (ROW).
        path: The file (``rows.jsonl``) with the rows; the table is beside it.
        prompts: Computed once for every row, from its scrubbed prompt without boilerplate: `form` (its loose form), `sketch` (see
            near_duplicates.py) and `tokens` (its token set, see tokens.py). None: they are read when they are asked for.
    """

    rows: np.ndarray
    path: Path
    prompts: pa.Table | None = None

    def _column(self, name: str) -> pa.ChunkedArray:
        import pyarrow.parquet as pq

        prompts = pq.read_table(self.path.parent / TABLE, columns=[name]) if self.prompts is None else self.prompts
        return prompts[name]

    @cached_property
    def _forms(self) -> pa.ChunkedArray:
        return self._column("form")

    @cached_property
    def sketches(self) -> np.ndarray:
        """Sketches of all rows (uint32, [n, COLUMNS])."""
        flat: np.ndarray = self._column("sketch").combine_chunks().flatten().to_numpy()
        return flat.reshape(-1, COLUMNS)

    def forms(self, which: np.ndarray) -> list[str]:
        """Return the loose forms of these rows (int64), without boilerplate."""
        # not by `take`, which joins the texts of all rows first and fails if they have 2 GiB
        return [self._forms[row].as_py() for row in which.tolist()]

    def token_sets(self, which: np.ndarray) -> csr_matrix:
        """Return the token sets of these rows (int64, ascending; see tokens.token_sets)."""
        from scipy.sparse import csr_matrix

        lists = self._column("tokens").combine_chunks()
        starts, tokens = lists.offsets.to_numpy(), lists.values.to_numpy()
        shape = (len(self.rows), token_space(len(self.rows)))
        sets = csr_matrix((np.ones(len(tokens), np.float32), tokens, starts), shape)
        return sets if len(which) == len(self.rows) else sets[which]

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


def describe_rows(path: Path, boilerplate: Boilerplate, spec: TaskSpec, rows: int) -> tuple[RowTable, np.ndarray]:
    """Describe the rows of a file for comparison. All have the state KEPT and no cluster yet.

    Args:
        boilerplate: Removed from prompts before.
        rows: Number of rows of the file.

    Returns:
        The table, and hashes of the loose forms of all prompts, boilerplate included (uint64, [n]).
    """
    import pyarrow as pa

    records, normal_keys, prompts = [np.zeros(0, ROW)], [np.zeros(0, np.uint64)], []
    described = offset = 0
    describe = partial(describe_block, boilerplate=boilerplate, spec=spec, space=token_space(rows))
    for block, keys, batch in in_order(describe, read_blocks_of_lines(path), path.stat().st_size):
        block["start"] += offset
        block["end"] += offset
        offset = int(block["end"][-1])
        described += len(block)
        records.append(block)
        normal_keys.append(keys)
        prompts.append(batch)
        tell("clean_examples", f"{described} rows described", rows=described)
    table = pa.Table.from_batches(prompts, _prompt_schema())
    return RowTable(np.concatenate(records), path, table), np.concatenate(normal_keys)


def describe_block(
    data: bytes, boilerplate: Boilerplate, spec: TaskSpec, space: int
) -> tuple[np.ndarray, np.ndarray, pa.RecordBatch]:
    """Describe rows given as complete lines of canonical JSON. Returns (ROW, normal keys, columns of prompts)."""
    import pyarrow as pa

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
    forms = loose_forms(user_texts, boilerplate, exact)
    sketches, sets = sketch(forms, spec.data.near_duplicate_threshold), token_sets(forms, space)
    columns = (
        pa.array(forms, pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(sketches.ravel()), COLUMNS),
        pa.ListArray.from_arrays(pa.array(sets.indptr, pa.int32()), pa.array(sets.indices, pa.int32())),
    )
    prompts = pa.RecordBatch.from_arrays(list(columns), schema=_prompt_schema())
    return rows, np.array([hash_text(loosened(form)) for form in exact], np.uint64), prompts
