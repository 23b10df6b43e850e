"""``rows.npy`` of the clean stage: every valid row as a record, with what was decided about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from finetune_pipeline.data.columns import Table
from finetune_pipeline.data.deciding import Decided
from finetune_pipeline.data.growth import Growth

CLEAN_ROW = np.dtype(
    [
        ("id", "<u8"),
        ("prompt", "<u8"),
        ("group", "<u8"),
        ("cluster", "<u8"),  # the smallest id in the row's cluster
        ("time", "<f8"),
        ("label", "<i4"),
        ("origin", "<u1"),
        ("state", "<u1"),  # KEPT, EXACT, NEAR, CONTRADICTION, or GONE
        ("part", "<u4"),
        ("start", "<u8"),  # of the row's line in the part under scrubbed/
        ("end", "<u8"),
    ]
)
_AS_READ = ("id", "prompt", "group", "time", "label", "origin", "start", "end")


def save_clean_rows(path: Path, table: Table, decided: Decided) -> None:
    """Write all rows (CLEAN_ROW). Those an earlier artifact has, and about which nothing was decided anew, are copied from
    its file and never brought into this process's memory."""
    if decided.carried is None or _renumbered(table, *decided.carried[:2]):
        np.save(path, _records(table, decided, np.arange(len(table.rows))))
        return
    before, growth, anew = decided.carried
    new = np.flatnonzero(growth.old < 0)
    changed = anew[growth.old[anew] >= 0]
    made, mended = _records(table, decided, new), _records(table, decided, changed)
    with path.open("wb") as out:
        npy.write_array_header_1_0(
            out, {"descr": npy.dtype_to_descr(CLEAN_ROW), "fortran_order": False, "shape": (len(growth.old),)}
        )
        first = out.tell()
        at = written = 0
        for start, was, count in [*growth.runs, (len(growth.old), 0, 0)]:
            fresh = start - at  # new rows stand between the runs
            out.write(made[written : written + fresh].tobytes())
            written += fresh
            out.write(before[was : was + count].view(np.uint8).data)
            at = start + count
        for row, record in zip(changed.tolist(), mended, strict=True):
            out.seek(first + row * CLEAN_ROW.itemsize)
            out.write(record.tobytes())


def _renumbered(table: Table, before: np.ndarray, growth: Growth) -> bool:
    """Whether a part with rows of before has another number now."""
    first = np.flatnonzero(np.diff(table.part, prepend=-1))  # of every part
    was = growth.old[first]
    return bool((before["part"][was[was >= 0]] != table.part[first[was >= 0]]).any())


def _records(table: Table, decided: Decided, which: np.ndarray) -> np.ndarray:
    """The records (CLEAN_ROW, [m]) of these rows (int64)."""
    rows = np.zeros(len(which), CLEAN_ROW)
    for name in _AS_READ:
        rows[name] = table.rows[name][which]
    rows["cluster"], rows["state"], rows["part"] = decided.clusters[which], decided.states[which], table.part[which]
    return rows
