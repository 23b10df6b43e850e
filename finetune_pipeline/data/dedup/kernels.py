"""Inner loops of the near-duplicate search, compiled by numba. Import inside functions only: loading takes half a second."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np


def compiled(function: Callable[..., Any]) -> Any:
    """Apply numba.njit without the interpreter lock, cached on disk if a folder is writable."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no writable folder for its cache
        return numba.njit(**options)(function)


@compiled
def _gram(points: np.ndarray, at: int) -> Any:
    """Return the 64-bit hash of the five code points from `at` on."""
    first = np.uint64(points[at]) | np.uint64(points[at + 1]) << np.uint64(21)
    first |= np.uint64(points[at + 2]) << np.uint64(42)
    last = np.uint64(points[at + 3]) | np.uint64(points[at + 4]) << np.uint64(21)
    h = first * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(32)) ^ last) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(29))) * np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(32))


@compiled
def sketch_rows(
    points: np.ndarray, offsets: np.ndarray, bands: np.ndarray, donors: np.ndarray, keys: np.ndarray, bits: np.ndarray
) -> None:
    """Compute MinHash band keys and the one-bit signature of every row; see ``near_duplicates.sketch``.

    Args:
        points: Code points (uint32) of all rows, each at least five long.
        offsets: Row i is ``points[offsets[i]:offsets[i + 1]]`` (int64).
        bands: The bins each band joins (int64, [bands, rows of a band]).
        donors: Distances at which to look for a filled bin, in this order (int64).
        keys: Filled with the band keys (uint32, [rows, bands]).
        bits: Filled with one bit of every bin (uint64, [rows, bins / 64]).
    """
    bins = 64 * bits.shape[1]
    empty = np.uint64(0xFFFFFFFFFFFFFFFF)
    smallest, filled = np.empty(bins, np.uint64), np.empty(bins, np.uint64)
    for row in range(len(offsets) - 1):
        smallest[:] = empty
        for turn in range(2):  # a second hash fills most bins that the first left empty
            for at in range(offsets[row], offsets[row + 1] - 4):
                h = _gram(points, at)
                if turn == 1:
                    h = h * np.uint64(0x2545F4914F6CDD1D)
                    h = h ^ (h >> np.uint64(32))
                place = h >> np.uint64(56)
                value = (h & np.uint64(0xFFFFFFFF)) | np.uint64(turn) << np.uint64(32)
                smallest[place] = min(smallest[place], value)
            if not (smallest == empty).any():
                break
        else:
            filled[:] = smallest
            for i in range(bins):
                if filled[i] == empty:
                    for distance in donors:
                        donor = (i + distance) % bins
                        if filled[donor] != empty:
                            smallest[i] = filled[donor]
                            break
        for band in range(bands.shape[0]):
            key = np.uint64(band)
            for j in range(bands.shape[1]):
                key = (key ^ smallest[bands[band, j]]) * np.uint64(0x9E3779B97F4A7C15)
                key = key ^ (key >> np.uint64(32))
            keys[row, band] = np.uint32(key & np.uint64(0xFFFFFFFF))
        for word in range(bits.shape[1]):
            signature = np.uint64(0)
            for j in range(64):
                signature |= (smallest[word * 64 + j] & np.uint64(1)) << np.uint64(j)
            bits[row, word] = signature


@compiled
def _differing(bits: np.ndarray, a: int, b: int) -> Any:
    """Count the bits in which two rows differ."""
    total: Any = 0
    for j in range(bits.shape[1]):
        x = bits[a, j] ^ bits[b, j]
        x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
        x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
        x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
        total += np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))
    return total


@compiled
def _join(parent: np.ndarray, a: int, b: int) -> bool:
    """Unite two trees of a forest. Returns whether they were two."""
    while parent[a] != a:
        parent[a] = parent[parent[a]]
        a = parent[a]
    while parent[b] != b:
        parent[b] = parent[parent[b]]
        b = parent[b]
    parent[max(a, b)] = min(a, b)
    return bool(a != b)


@compiled
def pair_up(
    rows: np.ndarray,
    starts: np.ndarray,
    bits: np.ndarray,
    most: tuple[int, int],
    small: int,
    reach: int,
    forests: np.ndarray,
    out: np.ndarray,
) -> int:
    """Candidate pairs among rows that share a band key; see ``near_duplicates.candidate_pairs``. Returns how many.

    Args:
        rows: Rows, bucket after bucket (int64).
        starts: Bucket k is ``rows[starts[k]:starts[k + 1]]`` (int64).
        bits: Signatures of all rows (uint64).
        most: Maximum number of differing bits of a pair, in a small and in a large bucket.
        small: Largest bucket whose pairs are all compared.
        reach: How many following rows each row of a larger bucket is compared with.
        forests: Union-find forests (int32, [forests, rows]).
        out: Filled with ``first << 32 | second`` (uint64).
    """
    count = 0
    for bucket in range(len(starts) - 1):
        start, end = starts[bucket], starts[bucket + 1]
        large = end - start > small
        for p in range(start, end):
            a = rows[p]
            for q in range(p + 1, min(end, p + 1 + reach) if large else end):
                b = rows[q]
                if _differing(bits, a, b) > most[1 if large else 0]:
                    continue
                joined = not large
                for forest in range(len(forests)):
                    if joined:
                        break
                    joined = _join(forests[forest], a, b)
                if joined:
                    out[count] = (np.uint64(min(a, b)) << np.uint64(32)) | np.uint64(max(a, b))
                    count += 1
    return count


@compiled
def jaccard_pairs(points: np.ndarray, offsets: np.ndarray, pairs: np.ndarray, out: np.ndarray) -> None:
    """Compute the Jaccard similarity of the 5-gram sets of each pair of rows (int64, [m, 2]) into `out` (float64, [m]). The
    5-grams go into an open-addressing hash table, marked with their row; entries with an older mark are free, so the table
    is never cleared."""
    longest = 5
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    slots = 64
    while slots < 4 * longest:
        slots *= 2
    table, marks, shared = np.zeros(slots, np.uint64), np.full(slots, -1), np.full(slots, -1)
    for i in range(len(pairs)):
        a, b = pairs[i, 0], pairs[i, 1]
        size = (offsets[a + 1] - offsets[a]) + (offsets[b + 1] - offsets[b])
        mask = 63
        while mask < 2 * size and mask < slots - 1:
            mask = 2 * mask + 1
        shared_count = union = 0
        for side in range(2):
            row, mark = pairs[i, side], 2 * i + side
            for at in range(offsets[row], offsets[row + 1] - 4):
                gram = _gram(points, at)
                slot = np.int64(gram >> np.uint64(20)) & mask
                while marks[slot] >= 2 * i and table[slot] != gram:
                    slot = (slot + 1) & mask
                if marks[slot] < 2 * i:
                    table[slot], marks[slot] = gram, mark
                    union += 1
                elif marks[slot] != mark and shared[slot] != i:
                    shared[slot] = i
                    shared_count += 1
        out[i] = shared_count / union
