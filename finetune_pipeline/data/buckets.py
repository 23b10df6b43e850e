"""Candidate pairs: rows whose sketches share a band key and whose signatures agree nearly as often as asked."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

BANDS = 40
BINS = 256
COLUMNS = BANDS + BINS // 32  # of a sketch: band keys, then one bit per bin
WHOLE = 32  # rows of a bucket up to which all its pairs are candidates
REACH = 8  # in larger ones every row is compared with so many next to it, in an order that differs from band to band
FORESTS = 6  # and a pair is taken only while its rows are less than so many times connected
_SMALL = 200_000  # comparisons in plain Python that take as long as loading the kernels
_ROOM = 1 << 20
_ERRORS = 3.7  # standard errors of the estimated similarity allowed below the threshold: one pair in 3,000 is lost


def differing_bits(threshold: float, errors: float) -> int:
    """How many of the 256 signature bits may differ in a candidate: at the threshold, and so many standard errors more.

    A bit differs with probability p = (1 - s) / 2 where the similarity is s, so the standard error is sqrt(256 p (1 - p)).
    """
    p = (1 - threshold) / 2
    return min(BINS, int(BINS * p + errors * (BINS * p * (1 - p)) ** 0.5) + 2)


def candidate_pairs(sketches: np.ndarray, fresh: np.ndarray | None = None, threshold: float = 0.0) -> np.ndarray:
    """Pairs of rows (int64, [m, 2], first < second, sorted) worth comparing.

    sketches: uint32, [n, 48], of ``sketches.sketch``; fresh (bool, [n]): pairs without a fresh row are left out; threshold: the
    similarity asked for (0: whatever shares a band key). Buckets of up to 32 rows give all their pairs; of larger ones (a
    template with very many rows) only enough pairs to connect every row six times, so that time stays linear.
    """
    n = len(sketches)
    is_fresh = np.ones(n, np.bool_) if fresh is None else np.ascontiguousarray(fresh, np.bool_)
    bits = np.ascontiguousarray(sketches[:, BANDS:])
    most = (differing_bits(threshold, _ERRORS), differing_bits(threshold, 0)) if threshold else (BINS, BINS)
    parents = np.tile(np.arange(n, dtype=np.int32), (FORESTS, 1))
    few = np.flatnonzero(is_fresh) if 8 * int(is_fresh.sum()) < n else None
    found = [np.zeros(0, np.uint64)]
    held = work = 0
    for band in range(BANDS):
        rows, starts = _buckets(np.ascontiguousarray(sketches[:, band]), band, few)
        sizes = np.diff(starts)
        work += len(rows) + int(np.where(sizes > WHOLE, sizes * REACH, sizes * (sizes - 1) // 2).sum())
        pair_up = _pair_up if work + n < _SMALL else _compiled_pair_up
        found += pair_up(rows, starts, bits, most, is_fresh, parents)
        if sum(map(len, found)) > 2 * held + 4 * _ROOM:
            found = [_distinct(np.concatenate(found))]
            held = len(found[0])
    packed = _distinct(np.concatenate(found))
    return np.stack([packed >> np.uint64(32), packed & np.uint64(0xFFFFFFFF)], 1).astype(np.int64)


def _distinct(values: np.ndarray) -> np.ndarray:
    """Sorted, without repeats; in place."""
    values.sort()
    kept = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=kept[1:])
    return values[kept]


def _buckets(keys: np.ndarray, band: int, few: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(rows, starts): bucket k is ``rows[starts[k]:starts[k + 1]]``; buckets of one row are left out.

    Rows of a bucket stand in an order that looks random and differs from band to band. few: buckets without one of
    these rows are left out too, nearly all of them.
    """
    odd = (2 * band + 1) * 0x9E3779B1 % 2**32
    back = np.uint32(pow(odd, -1, 2**32))
    if few is None:
        row = np.arange(len(keys), dtype=np.uint32)
    else:
        width = min(26, max(10, len(few).bit_length() + 7))
        shift = np.uint32(32 - width)
        known = np.zeros(1 << width, np.bool_)
        known[keys[few] >> shift] = True
        row = np.flatnonzero(known[keys >> shift]).astype(np.uint32)
        keys = keys[row]
    order = keys.astype(np.uint64)
    order <<= np.uint64(32)
    order |= row * np.uint32(odd)
    order.sort()
    ordered = (order >> np.uint64(32)).astype(np.uint32)
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    if not len(same):
        return np.zeros(0, np.int64), np.zeros(1, np.int64)
    first = np.concatenate([[True], np.diff(same) > 1])
    begin = same[first]
    end = same[np.concatenate([first[1:], [True]])] + 2
    sizes = end - begin
    starts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    at = np.arange(starts[-1]) + np.repeat(begin - starts[:-1], sizes)
    return ((order[at] & np.uint64(0xFFFFFFFF)).astype(np.uint32) * back).astype(np.int64), starts


def _compiled_pair_up(
    rows: np.ndarray,
    starts: np.ndarray,
    bits: np.ndarray,
    most: tuple[int, int],
    fresh: np.ndarray,
    parents: np.ndarray,
) -> list[np.ndarray]:
    from finetune_pipeline.data import bucket_kernels

    found = []
    state = np.zeros(2, np.int64)
    words = bits.view(np.uint64)
    while state[0] < len(starts) - 1:
        out = np.empty(_ROOM, np.uint64)
        count = bucket_kernels.pair_up(rows, starts, words, *most, fresh, parents, WHOLE, REACH, state, out)
        found.append(out[:count].copy())
    return found


def _pair_up(
    rows: np.ndarray,
    starts: np.ndarray,
    bits: np.ndarray,
    most: tuple[int, int],
    fresh: np.ndarray,
    parents: np.ndarray,
) -> list[np.ndarray]:
    """The candidate pairs (first << 32 | second) of one band's buckets: the definition of ``bucket_kernels.pair_up``."""
    wanted = np.unique(rows)
    signature = dict(zip(wanted.tolist(), (int.from_bytes(bits[i].tobytes(), "little") for i in wanted), strict=True))
    young = dict(zip(wanted.tolist(), fresh[wanted].tolist(), strict=True))
    found: list[int] = []

    def alike(a: int, b: int, most: int) -> bool:
        return (young[a] or young[b]) and (signature[a] ^ signature[b]).bit_count() <= most

    for start, end in pairwise(starts):
        members = rows[start:end].tolist()
        if len(members) <= WHOLE:
            for i, a in enumerate(members):
                found += [min(a, b) << 32 | max(a, b) for b in members[i + 1 :] if alike(a, b, most[0])]
            continue
        old = [a for a in members if not young[a]]
        for parent in parents:
            for a in old[1:]:
                join(parent, old[0], a)
        for i, a in enumerate(members):
            for b in members[i + 1 : i + 1 + REACH]:
                if alike(a, b, most[1]) and any(join(parent, a, b) for parent in parents):
                    found.append(min(a, b) << 32 | max(a, b))
    return [np.array(found, np.uint64)]


def join(parent: np.ndarray, a: int, b: int) -> bool:
    """Union of two trees in a forest (int32, [n]); whether they were two."""
    while parent[a] != a:
        parent[a] = parent[parent[a]]
        a = parent[a]
    while parent[b] != b:
        parent[b] = parent[parent[b]]
        b = parent[b]
    parent[max(a, b)] = min(a, b)
    return bool(a != b)
