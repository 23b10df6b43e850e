"""Which of very many sketched rows could be like one of a few: one pass over the sketches, without sorting them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from finetune_pipeline.data.array_files import ArrayFile, array_file
from finetune_pipeline.data.buckets import BANDS, COLUMNS
from finetune_pipeline.data.parts import available_cores

_SMALL = 30_000  # rows looked through in numpy in the time it takes to load the kernels


def sharing(sketches: Sequence[Path | np.ndarray], wanted: np.ndarray) -> np.ndarray:
    """Rows (int64, ascending; numbered over all of `sketches`, files or arrays of ``sketches.sketch``) that have a band
    key in common with a row of `wanted` (such a sketch): no other row can be in a candidate pair with one of these."""
    pieces = [array_file(s) if isinstance(s, Path) else s for s in sketches]
    total = sum(map(len, pieces))
    if not total or not len(wanted):
        return np.zeros(0, np.int64)
    if total < _SMALL:
        whole = [p.read_into(np.empty(p.nbytes, np.uint8)) if isinstance(p, ArrayFile) else p for p in pieces]
        return np.flatnonzero(np.concatenate([_sharing(piece, wanted) for piece in whole]))
    from finetune_pipeline.data import bucket_kernels

    width = max(4, (2 * len(wanted)).bit_length())  # at most half of a table is filled, and a sixteenth of the marks
    keys, filled = np.zeros((BANDS, 1 << width), np.uint32), np.zeros((BANDS, 1 << width), np.bool_)
    marks = np.zeros((BANDS, 1 << (width - 3)), np.uint64)
    bucket_kernels.fill_tables(np.ascontiguousarray(wanted), keys, filled, marks)
    found = np.zeros(total, np.bool_)
    ends = np.cumsum([len(piece) for piece in pieces])

    def mark(mine: Sequence[int]) -> None:
        for number in mine:
            piece = pieces[number]
            rows = piece.all_mapped() if isinstance(piece, ArrayFile) else piece
            at = found[ends[number] - len(rows) : ends[number]]
            bucket_kernels.mark_sharing(np.ascontiguousarray(rows), keys, filled, marks, at)

    cores = available_cores()
    with ThreadPoolExecutor(cores) as threads:  # neither reading nor the kernel holds the interpreter lock
        list(threads.map(mark, [range(first, len(pieces), cores) for first in range(cores)]))
    return np.flatnonzero(found)


def taken(sketches: Sequence[Path], bounds: np.ndarray, which: np.ndarray) -> np.ndarray:
    """The sketches (uint32, [m, 48]) of rows (int64, ascending); file k holds rows bounds[k]:bounds[k + 1]."""
    cuts = np.searchsorted(which, bounds)
    pieces = [np.zeros((0, COLUMNS), np.uint32)]
    for number in np.flatnonzero(np.diff(cuts)).tolist():
        mine = which[cuts[number] : cuts[number + 1]] - bounds[number]
        pieces.append(array_file(sketches[number]).mapped()[mine])
    return np.concatenate(pieces)


def bounds_of(part: np.ndarray, parts: int) -> np.ndarray:
    """Where each part's rows begin, and the last ends (int64, [parts + 1]); `part` ascends, since rows stand by part."""
    return np.searchsorted(part, np.arange(parts + 1, dtype=part.dtype)).astype(np.int64)


def _sharing(sketches: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The definition of ``bucket_kernels.mark_sharing``."""
    found = np.zeros(len(sketches), np.bool_)
    for band in range(BANDS):
        found |= np.isin(sketches[:, band], wanted[:, band])
    return found
