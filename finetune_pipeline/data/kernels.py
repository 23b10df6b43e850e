"""The inner loops over text, compiled by numba: loose forms, sketches, similarities. Import inside functions only.

What a kernel computes is defined, in plain Python and numpy, by the functions of :mod:`finetune_pipeline.data.sketches`;
constants are arguments, since numba's cache does not see changes in other files (and this file's kernels call no others).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from finetune_pipeline.data.compiling import compiled, helper

_u8 = types.Array(types.uint8, 1, "C", readonly=True)
_i64 = types.Array(types.int64, 1, "C", readonly=True)
_u32 = types.Array(types.uint32, 1, "C", readonly=True)
_out_u8, _out_u32, _out_i64 = types.uint8[::1], types.uint32[::1], types.int64[::1]
_out_u64, _out_f64 = types.uint64[::1], types.float64[::1]
_SIZE = 5  # characters of a 5-gram
_ASCII = 0x80


@helper
def _is_ascii(row: np.ndarray) -> bool:
    union = np.uint8(0)
    for i in range(len(row)):
        union |= row[i]
    return bool(union < _ASCII)


@helper
def _point(row: np.ndarray, at: int) -> Any:
    """(code point, number of bytes) of the character that begins at a byte of UTF-8 text, surrogates allowed."""
    byte, low = np.uint32(row[at]), np.uint32(0x3F)
    if byte < np.uint32(0x80):
        return byte, np.uint32(1)
    second = np.uint32(row[at + 1]) & low
    if byte < np.uint32(0xE0):
        return ((byte & np.uint32(0x1F)) << np.uint32(6)) | second, np.uint32(2)
    third = np.uint32(row[at + 2]) & low
    if byte < np.uint32(0xF0):
        return ((byte & np.uint32(0x0F)) << np.uint32(12)) | (second << np.uint32(6)) | third, np.uint32(3)
    fourth = np.uint32(row[at + 3]) & low
    head = ((byte & np.uint32(0x07)) << np.uint32(18)) | (second << np.uint32(12))
    return head | (third << np.uint32(6)) | fourth, np.uint32(4)


@helper
def _decode(row: np.ndarray, points: np.ndarray) -> int:
    """Code points of UTF-8 text, blanks added up to five. Returns how many."""
    count = 0
    i = 0
    while i < len(row):
        points[count], length = _point(row, i)
        i += length
        count += 1
    while count < _SIZE:
        points[count] = 32
        count += 1
    return count


@helper
def _fold_row(row: np.ndarray, ascii_form: np.ndarray, kept: np.ndarray, out: np.ndarray) -> Any:
    """One row of :func:`fold`. Returns the number of bytes written."""
    at = np.uint64(0)  # unsigned: indices need no check for negative ones
    one, blank = np.uint64(1), np.uint8(32)
    before = blank
    if _is_ascii(row):  # without branches: five times as fast
        for i in range(len(row)):
            form = ascii_form[row[i]]
            out[at] = form
            at += np.uint64((form != blank) | (before != blank))
            before = form
    else:
        i = 0
        while i < len(row):
            point, length = _point(row, i)
            if length == np.uint32(1) or kept[point] != 1:
                form = ascii_form[row[i]] if length == np.uint32(1) else blank
                out[at] = form
                at += np.uint64((form != blank) | (before != blank))
                before = form
            else:
                for j in range(length):
                    out[at] = row[i + j]
                    at += one
                before = np.uint8(0)
            i += length
    if at > np.uint64(0) and out[at - one] == blank:
        at -= one
    return np.int64(at)


@compiled(types.int64(_u8, _i64, _u8, _u8, _out_u8, _out_i64))
def fold(
    raw: np.ndarray, offsets: np.ndarray, ascii_form: np.ndarray, kept: np.ndarray, out: np.ndarray, ends: np.ndarray
) -> int:
    """Map UTF-8 text to loose forms: `ascii_form` (uint8, [256]) maps ASCII, 32 being a blank; `kept` (uint8, one per
    code point) is 1 for the other characters that stay. Blanks are collapsed and taken off the ends. Row i is written
    to ``out[ends[i]:ends[i + 1]]``; returns the number of bytes written, at most that of `raw`."""
    ends[0] = 0
    for row in range(len(offsets) - 1):
        start, at = offsets[row], ends[row]
        ends[row + 1] = at + _fold_row(raw[start : offsets[row + 1]], ascii_form, kept, out[at:])
    return ends[len(offsets) - 1]


@compiled(types.void(_u8, _i64, _out_u64))
def row_keys(codes: np.ndarray, offsets: np.ndarray, keys: np.ndarray) -> None:
    """A 64-bit hash of every row's bytes."""
    multiplier = np.uint64(0x9E3779B97F4A7C15)
    for row in range(len(offsets) - 1):
        i, end = offsets[row], offsets[row + 1]
        key = np.uint64(end - i) * np.uint64(0xC4CEB9FE1A85EC53)
        while i < end:
            word = np.uint64(0)
            if end - i >= 8:
                for j in range(8):
                    word |= np.uint64(codes[i + j]) << np.uint64(8 * j)
            else:
                for j in range(end - i):
                    word |= np.uint64(codes[i + j]) << np.uint64(8 * j)
            key = (key ^ word) * multiplier
            key ^= key >> np.uint64(32)
            i += 8
        key = (key ^ (key >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        keys[row] = key ^ (key >> np.uint64(32))


@helper
def _mix(h: Any) -> Any:
    h = np.uint32(h * np.uint32(0x7FEB352D))
    h ^= h >> np.uint32(15)
    h = np.uint32(h * np.uint32(0x846CA68B))
    return h ^ (h >> np.uint32(16))


@helper
def _base_hashes(row: np.ndarray, points: np.ndarray, hashes: np.ndarray) -> int:
    """32-bit hashes of a row's 5-grams, repeats kept; see ``sketches.base_hashes``. Returns how many."""
    if len(row) >= _SIZE and _is_ascii(row):
        count = len(row) - _SIZE + 1
        for i in range(count):
            low = (
                np.uint32(row[i])
                | (np.uint32(row[i + 1]) << np.uint32(8))
                | (np.uint32(row[i + 2]) << np.uint32(16))
                | (np.uint32(row[i + 3]) << np.uint32(24))
            )
            h = np.uint32(low * np.uint32(0x9E3779B1)) ^ np.uint32(np.uint32(row[i + 4]) * np.uint32(0x85EBCA6B))
            hashes[i] = _mix(h ^ (h >> np.uint32(16)))
        return count
    length = _decode(row, points)
    for i in range(length):
        if points[i] >= np.uint32(_ASCII):
            points[i] = _mix(points[i])
    for i in range(length - _SIZE + 1):
        low = points[i]
        low ^= (points[i + 1] << np.uint32(8)) | (points[i + 1] >> np.uint32(24))
        low ^= (points[i + 2] << np.uint32(16)) | (points[i + 2] >> np.uint32(16))
        low ^= (points[i + 3] << np.uint32(24)) | (points[i + 3] >> np.uint32(8))
        h = np.uint32(low * np.uint32(0x9E3779B1)) ^ np.uint32(points[i + 4] * np.uint32(0x85EBCA6B))
        hashes[i] = _mix(h ^ (h >> np.uint32(16)))
    return length - _SIZE + 1


@compiled(types.void(_u8, _i64, _u32, types.Array(types.uint8, 2, "C", readonly=True), _i64, types.uint32[:, ::1]))
def sketch_rows(
    codes: np.ndarray, offsets: np.ndarray, rounds: np.ndarray, bins: np.ndarray, donors: np.ndarray, out: np.ndarray
) -> None:
    """MinHash bands and one-bit signature of every row; see ``sketches.sketch``, whose constants are the arguments:
    rounds (odd multipliers), bins (uint8, [rows, bands]: which bins a band joins), donors (int64: how far from an empty
    bin to look for one to borrow from, in this order)."""
    count = 256
    empty = np.uint32(0xFFFFFFFF)
    longest = _SIZE
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    points, hashes = np.empty(longest, np.uint32), np.empty(longest, np.uint32)
    smallest, filled = np.empty(count, np.uint32), np.empty(count, np.uint32)
    width, bands = bins.shape
    keys = np.empty(bands, np.uint32)
    for row in range(len(offsets) - 1):
        grams = _base_hashes(codes[offsets[row] : offsets[row + 1]], points, hashes)
        smallest[:] = empty
        vacant = count
        for turn in range(len(rounds)):
            multiplier, tag = rounds[turn], np.uint32(turn << 24)
            for i in range(grams):
                x = np.uint32(hashes[i] * multiplier)
                x ^= x >> np.uint32(15)
                place = x >> np.uint32(24)
                smallest[place] = min(smallest[place], tag | (x & np.uint32(0xFFFFFF)))
            vacant = 0
            for i in range(count):
                vacant += smallest[i] == empty
            if vacant == 0:
                break
        if vacant:
            filled[:] = smallest
            for i in range(count):
                if filled[i] == empty:
                    for t in range(len(donors)):
                        donor = (i + donors[t]) & (count - 1)
                        if filled[donor] != empty:
                            smallest[i] = filled[donor]
                            break
        for band in range(bands):
            keys[band] = np.uint32(band)
        for j in range(width):
            for band in range(bands):
                key = np.uint32((keys[band] ^ smallest[bins[j, band]]) * np.uint32(0x9E3779B1))
                keys[band] = key ^ (key >> np.uint32(15))
        for band in range(bands):
            out[row, band] = np.uint32(keys[band] * np.uint32(0x846CA68B))
        for word in range(count // 32):
            bits = np.uint32(0)
            for j in range(32):
                bits |= (smallest[word * 32 + j] & np.uint32(1)) << np.uint32(j)
            out[row, bands + word] = bits


@helper
def _grams(row: np.ndarray, points: np.ndarray, grams: np.ndarray) -> int:
    """A row's 5-grams as 48-bit numbers, repeats kept: five ASCII characters as they are, others as a hash (two texts
    of a thousand such 5-grams have one in common by chance once in a hundred million times)."""
    if len(row) >= _SIZE and _is_ascii(row):
        for i in range(len(row) - _SIZE + 1):
            grams[i] = (
                (np.uint64(row[i]) << np.uint64(28))
                | (np.uint64(row[i + 1]) << np.uint64(21))
                | (np.uint64(row[i + 2]) << np.uint64(14))
                | (np.uint64(row[i + 3]) << np.uint64(7))
                | np.uint64(row[i + 4])
            )
        return len(row) - _SIZE + 1
    count = _decode(row, points) - _SIZE + 1
    for i in range(count):
        gram, mixed = np.uint64(0), np.uint64(0)
        plain: Any = True
        for j in range(_SIZE):
            point = np.uint64(points[i + j])
            plain = plain and point < np.uint64(_ASCII)
            gram = (gram << np.uint64(7)) | point
            mixed = (mixed ^ point) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        grams[i] = gram if plain else (mixed >> np.uint64(17)) | np.uint64(1 << 47)
    return count


@helper
def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    if len(one) != len(other):
        return False
    difference = np.uint8(0)
    for i in range(len(one)):
        difference |= one[i] ^ other[i]
    return bool(difference == 0)


@helper
def _table_bits(longest: int) -> int:
    """Binary logarithm of the slots of a table for two rows: at most half of them are ever used."""
    bits = 6
    while (1 << bits) < 4 * longest:
        bits += 1
    return min(max(bits, 13), bits + 2)


@compiled(types.void(_u8, _i64, _i64, _i64, _out_f64))
def jaccard_pairs(codes: np.ndarray, offsets: np.ndarray, left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """Exact Jaccard similarity of the 5-gram sets of rows ``left[i]`` and ``right[i]``; fast where `left` is sorted.

    The left row's 5-grams go into an open-addressing table, eight slots for each (fewer where that would leave the
    processor's cache). An entry is a 16-bit stamp and a 5-gram; entries with a stamp other than the left row's or the
    pair's are free slots, so that nothing is ever cleared: the right row's own 5-grams disappear with the pair.
    """
    longest = _SIZE
    for i in range(len(left)):
        longest = max(longest, offsets[left[i] + 1] - offsets[left[i]], offsets[right[i] + 1] - offsets[right[i]])
    bits = _table_bits(longest)
    high = np.uint64(48)
    points, grams = np.empty(longest, np.uint32), np.empty(longest, np.uint64)
    table, marks = np.zeros(1 << bits, np.uint64), np.zeros(1 << bits, np.uint16)
    stamp, size = np.uint64(0), 0
    current: Any = -1
    shift, mask, own = np.uint64(0), np.uint64(0), np.uint64(0)
    for i in range(len(left)):
        a = codes[offsets[left[i]] : offsets[left[i] + 1]]
        b = codes[offsets[right[i]] : offsets[right[i] + 1]]
        if _equal(a, b):
            out[i] = 1.0
            continue
        if stamp > np.uint64(0xFFF0):
            table[:] = 0
            marks[:] = 0
            stamp, current = np.uint64(0), -1
        if left[i] != current:
            current = left[i]
            count = _grams(a, points, grams)
            longest = len(a)
            for j in range(i, len(left)):
                if left[j] != current:
                    break
                longest = max(longest, offsets[right[j] + 1] - offsets[right[j]])
            used = _table_bits(longest)
            shift, mask = np.uint64(64 - used), np.uint64((1 << used) - 1)
            stamp += np.uint64(1)
            own = stamp
            size = 0
            for j in range(count):
                entry = (own << high) | grams[j]
                slot = (grams[j] * np.uint64(0x9E3779B97F4A7C15)) >> shift
                while table[slot] != entry:
                    if table[slot] >> high != own:
                        table[slot] = entry
                        size += 1
                        break
                    slot = (slot + np.uint64(1)) & mask
        count = _grams(b, points, grams)
        stamp += np.uint64(1)
        both, others = 0, 0
        for j in range(count):
            entry = (own << high) | grams[j]
            other = (stamp << high) | grams[j]
            slot = (grams[j] * np.uint64(0x9E3779B97F4A7C15)) >> shift
            while True:
                found = table[slot]
                if found == entry:
                    both += marks[slot] != np.uint16(stamp)
                    marks[slot] = np.uint16(stamp)
                    break
                if found == other:
                    break
                if found >> high != own and found >> high != stamp:
                    table[slot] = other
                    others += 1
                    break
                slot = (slot + np.uint64(1)) & mask
        out[i] = both / (size + others)
