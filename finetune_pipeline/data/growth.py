"""How a set of parts has grown since an earlier artifact, and look-ups whose cost is that of the few things looked up.

An artifact's rows are those of its parts, one after the other. Where all parts of the earlier artifact are still there, in
their order, every old row has a place among the new ones, and what was found out about it then need not be found out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Growth:
    """`old` (int64, [n]): the number each row had before; -1: new. `runs`: (first row, first row before, rows)."""

    old: np.ndarray
    runs: list[tuple[int, int, int]]

    def carried(self, before: np.ndarray, fill: int = 0) -> np.ndarray:
        """A column (or table) of all rows: what `before` says of the old ones, `fill` for the new."""
        after = np.full(len(self.old), fill, before.dtype) if before.dtype.names is None else None
        made = np.zeros(len(self.old), before.dtype) if after is None else after
        for start, was, count in self.runs:
            made[start : start + count] = before[was : was + count]
        return made

    def places(self, before: np.ndarray) -> np.ndarray:
        """Numbers now (int64) of rows that had the numbers `before`, in their order."""
        now = np.empty(len(before), np.int64)
        for start, was, count in self.runs:
            here = (before >= was) & (before < was + count)
            now[here] = before[here] - was + start
        return now


def grown(before: Sequence[tuple[str, int]], after: Sequence[tuple[str, int]]) -> Growth | None:
    """How parts (key, rows) became other parts; None unless all of the former are there in the same order."""
    old = np.full(sum(count for _, count in after), -1, np.int64)
    runs: list[tuple[int, int, int]] = []
    at = was = number = 0
    for key, count in after:
        if number < len(before) and before[number][0] == key:
            old[at : at + count] = np.arange(was, was + count)
            if runs and runs[-1][0] + runs[-1][2] == at and runs[-1][1] + runs[-1][2] == was:
                runs[-1] = (runs[-1][0], runs[-1][1], runs[-1][2] + count)
            else:
                runs.append((at, was, count))
            was, number = was + count, number + 1
        at += count
    return Growth(old, runs) if number == len(before) else None


def isin(values: np.ndarray, few: np.ndarray) -> np.ndarray:
    """Which values (uint64, [n]) are among `few` (uint64): one pass and, for a handful of them, a search."""
    found = np.zeros(len(values), bool)
    if not len(few) or not len(values):
        return found
    few = np.unique(few)
    width = min(24, max(10, len(few).bit_length() + 6))
    known = np.zeros(1 << width, np.bool_)
    known[_slots(few, width)] = True
    buffer = np.empty(_AT_ONCE, np.uint64)
    for start in range(0, len(values), _AT_ONCE):
        piece = values[start : start + _AT_ONCE]
        likely = start + np.flatnonzero(known[_slots(piece, width, buffer[: len(piece)])])
        if len(likely):
            at = np.searchsorted(few, values[likely])
            at[at == len(few)] = 0
            found[likely[few[at] == values[likely]]] = True
    return found


_AT_ONCE = 1 << 14  # values whose slots stay in the processor's cache, instead of in new memory


def _slots(values: np.ndarray, width: int, out: np.ndarray | None = None) -> np.ndarray:
    """Where in a table of 2^width a value is noted (int64); values may be anything, their top bits included."""
    mixed = np.multiply(values, np.uint64(0x9E3779B97F4A7C15), out=out)
    return np.right_shift(mixed, np.uint64(64 - width), out=out).view(np.int64)
