"""The inner loop over buckets, compiled by numba: which rows are compared. Import inside functions only.

What it computes is defined, in plain Python, by :mod:`finetune_pipeline.data.buckets`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from finetune_pipeline.data.compiling import compiled, helper

_i64 = types.Array(types.int64, 1, "C", readonly=True)
_words = types.Array(types.uint64, 2, "C", readonly=True)
_sketches = types.Array(types.uint32, 2, "C", readonly=True)
_tables = types.Array(types.boolean, 2, "C", readonly=True)
_marks = types.Array(types.uint64, 2, "C", readonly=True)
_flags = types.Array(types.boolean, 1, "C", readonly=True)


@helper
def _join(parent: np.ndarray, a: int, b: int) -> bool:
    """Union of two trees in a forest; whether they were two."""
    while parent[a] != a:
        parent[a] = parent[parent[a]]
        a = parent[a]
    while parent[b] != b:
        parent[b] = parent[parent[b]]
        b = parent[b]
    parent[max(a, b)] = min(a, b)
    return bool(a != b)


@helper
def _differing(bits: np.ndarray, a: int, b: int) -> int:
    """In how many bits two rows differ."""
    total: Any = 0
    for j in range(bits.shape[1]):
        x = bits[a, j] ^ bits[b, j]
        x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
        x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
        x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
        total += np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))
    return total


@compiled(
    types.int64(
        *(
            _i64,
            _i64,
            _words,
            types.int64,
            types.int64,
            _flags,
            types.int32[:, ::1],
        ),
        *(types.int64, types.int64, types.int64[::1], types.uint64[::1]),
    )
)
def pair_up(
    rows: np.ndarray,
    starts: np.ndarray,
    bits: np.ndarray,
    most: int,
    most_large: int,
    fresh: np.ndarray,
    parents: np.ndarray,
    whole: int,
    reach: int,
    state: np.ndarray,
    out: np.ndarray,
) -> int:
    """Candidate pairs of one band; see ``buckets._pair_up``. Begins at bucket ``state[0]``, row ``state[1]`` of it, and
    stops there when `out` is full. Returns how many pairs were written."""
    count = 0
    while state[0] < len(starts) - 1:
        start, end = starts[state[0]], starts[state[0] + 1]
        large = end - start > whole
        if large and state[1] == 0:
            old = -1
            for p in range(start, end):
                if not fresh[rows[p]]:
                    if old >= 0:
                        for forest in range(len(parents)):
                            _join(parents[forest], old, rows[p])
                    else:
                        old = rows[p]
        while state[1] < end - start:
            p = start + state[1]
            last = min(end, p + 1 + reach) if large else end
            if count + last - p > len(out):
                return count
            a = rows[p]
            for q in range(p + 1, last):
                b = rows[q]
                if not (fresh[a] or fresh[b]) or _differing(bits, a, b) > (most_large if large else most):
                    continue
                if large:
                    joined = False
                    for forest in range(len(parents)):
                        if _join(parents[forest], a, b):
                            joined = True
                            break
                    if not joined:
                        continue
                out[count] = (np.uint64(min(a, b)) << np.uint64(32)) | np.uint64(max(a, b))
                count += 1
            state[1] += 1
        state[0] += 1
        state[1] = 0
    return count


@helper
def _shift(slots: int) -> int:
    """By how much 32 bits are shifted to number so many slots (a power of two)."""
    shift = 0
    while (1 << (32 - shift)) > slots:
        shift += 1
    return shift


@compiled(types.void(_sketches, types.uint32[:, ::1], types.boolean[:, ::1], types.uint64[:, ::1]))
def fill_tables(wanted: np.ndarray, keys: np.ndarray, filled: np.ndarray, marks: np.ndarray) -> None:
    """Put every row's band keys into the hash tables of their bands; see ``band_search.sharing``.

    A key is at the first free slot from the top bits of ``key * 0x9E3779B1`` on; `marks` has the bit of each such product's
    top bits set.
    """
    bands, slots = keys.shape
    shift, fine = _shift(slots), _shift(64 * marks.shape[1])
    for row in range(len(wanted)):
        for band in range(bands):
            key = wanted[row, band]
            mixed: Any = np.uint32(key * np.uint32(0x9E3779B1))
            bit = np.int64(mixed >> fine)
            marks[band, bit >> 6] |= np.uint64(1) << np.uint64(bit & 63)
            at: Any = np.int64(mixed >> shift)
            while filled[band, at] and keys[band, at] != key:
                at = (at + 1) % slots
            keys[band, at], filled[band, at] = key, True


@compiled(types.void(_sketches, _sketches, _tables, _marks, types.boolean[::1]))
def mark_sharing(
    sketches: np.ndarray, keys: np.ndarray, filled: np.ndarray, marks: np.ndarray, found: np.ndarray
) -> None:
    """Which rows have a band key that is in its band's hash table; see ``band_search._sharing``.

    Band after band for a few hundred rows: they and the band's marks, which turn nearly all away, stay in the cache. Those
    that are not turned away are first noted, without a branch whose outcome no processor could guess.
    """
    bands, slots = keys.shape
    shift, fine = _shift(slots), np.uint64(_shift(64 * marks.shape[1]))
    likely = np.empty(256, np.int64)
    for start in range(0, len(sketches), 256):
        end = min(len(sketches), start + 256)
        for band in range(bands):
            mine = marks[band]
            count: Any = 0
            for row in range(start, end):
                bit: Any = np.uint64(np.uint32(sketches[row, band] * np.uint32(0x9E3779B1))) >> fine
                likely[count] = row
                count += np.int64((mine[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1))
            for held in likely[:count]:
                key = sketches[held, band]
                at: Any = np.int64(np.uint32(key * np.uint32(0x9E3779B1)) >> shift)
                while filled[band, at] and keys[band, at] != key:
                    at = (at + 1) % slots
                if filled[band, at]:
                    found[held] = True
