"""Inner loops of the search for similar texts, compiled by numba. Import inside functions only, like dedup/kernels.py."""

from typing import Any, NamedTuple

import numpy as np

from finetune_pipeline.data.dedup.kernels import compiled

_BLANK = 32
_EFFORT = 3_000
"""Budget of texts examined per query; features more frequent than the remaining budget are skipped."""
_SHARED = 0.1
"""Minimum share of the examined features' weight that a text must share with a query to be compared."""
_COMPARED = 16
"""This many texts are compared for their shared weight, and as many for the rarest shared features."""
_CONTAINED = 0.3
"""Weight of containment in the similarity; the Dice coefficient has the remaining weight."""


class Index(NamedTuple):
    """Texts by their features.

    Attributes:
        features: Features of each text, ascending (int32, [n, most]).
        counts: Number of features of each text (int32).
        starts: The texts with feature f among their rarest are ``rows[starts[f]:starts[f + 1]]``.
        rows: Texts by feature (int32).
        only: For every feature the only text with it (int32; -1: none, or several).
        weights: Weights of features (float32).
        roots: Square root of the weight of each text's features (float32).
    """

    features: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    rows: np.ndarray
    only: np.ndarray
    weights: np.ndarray
    roots: np.ndarray


@compiled
def _mixed(h: Any) -> Any:
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # splitmix64
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@compiled
def features_of(points: np.ndarray, offsets: np.ndarray, bits: int, smallest: np.ndarray, counts: np.ndarray) -> None:
    """Compute the smallest distinct feature numbers of every text: of the three-letter parts of its words, of its words, and
    of pairs of words that are adjacent or have one word between them.

    Args:
        points: Code points (uint32) of all texts; words are separated by one blank.
        offsets: Text i is ``points[offsets[i]:offsets[i + 1]]`` (int64).
        bits: A feature's number is below ``2 ** bits``.
        smallest: Filled with the numbers, ascending (int32, [texts, most]).
        counts: Filled with the number of features (int32).
    """
    most = smallest.shape[1]
    blank = np.uint32(_BLANK)
    shift = np.uint64(64 - bits)
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        length = end - start
        # only small numbers of a long text are examined; enough of them remain to fill a row
        widest = np.uint64(2**bits) if length < 4 * most else np.uint64(2**bits * 6 * most // length)
        limit = min(widest, np.uint64(2**bits * 5 * most // (4 * max(1, length))))  # fewer to sort, seldom too few
        numbers = np.empty(4 * length + 8, np.int32)
        while True:
            total = 0
            word, last, before_last = np.uint64(0), np.uint64(0), np.uint64(0)
            for at in range(start, end + 1):
                point = points[at] if at < end else blank
                if point != blank:
                    word = (word ^ np.uint64(point)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)
                    before = points[at - 1] if at > start else blank
                    after = points[at + 1] if at + 1 < end else blank
                    part = np.uint64(before) | np.uint64(point) << np.uint64(21) | np.uint64(after) << np.uint64(42)
                    numbers[total] = number = _mixed(part * np.uint64(0x9E3779B97F4A7C15)) >> shift
                    total += number < limit  # without a branch, which would often be mispredicted
                elif word != 0:
                    for kind in range(3):
                        neighbour = np.uint64(1) if kind == 0 else last if kind == 1 else before_last
                        if neighbour == 0:
                            continue
                        number = _mixed(word + neighbour * np.uint64(0xD6E8FEB86659FD93) + np.uint64(kind)) >> shift
                        numbers[total] = number
                        total += number < limit
                    before_last, last, word = last, word, np.uint64(0)
            count = 0
            for number in np.sort(numbers[:total]):
                if count < most and (count == 0 or number != smallest[row, count - 1]):
                    smallest[row, count] = number
                    count += 1
            if count == most or limit == widest:
                break
            limit = widest
        counts[row] = count


@compiled
def texts_with(features: np.ndarray, counts: np.ndarray, texts: np.ndarray, only: np.ndarray) -> None:
    """Count the texts that have each feature (int32), and note the last of them (int32)."""
    for row in range(len(features)):
        for i in range(counts[row]):
            texts[features[row, i]] += 1
            only[features[row, i]] = row


@compiled
def weigh(features: np.ndarray, counts: np.ndarray, weights: np.ndarray, roots: np.ndarray) -> None:
    """Compute the square root of the weight of each text's features."""
    for row in range(len(features)):
        total = 1e-6
        for i in range(counts[row]):
            total += weights[features[row, i]]
        roots[row] = np.sqrt(total)


@compiled
def list_texts(rare: np.ndarray, starts: np.ndarray, rows: np.ndarray) -> None:
    """Sort texts by feature: ``rows[starts[f]:starts[f + 1]]`` becomes the texts with feature f among their rarest."""
    following = starts.copy()
    for row in range(len(rare)):
        for i in range(rare.shape[1]):
            if rare[row, i] >= 0:
                rows[following[rare[row, i]]] = row
                following[rare[row, i]] += 1


@compiled
def rarest(features: np.ndarray, counts: np.ndarray, texts: np.ndarray, least: int, out: np.ndarray) -> None:
    """Find each text's rarest features that occur in `least` texts or more, the rarest first; -1 fills the row."""
    for row in range(len(features)):
        keys = np.empty(counts[row], np.int64)
        many = 0
        for i in range(counts[row]):
            with_it = np.int64(texts[features[row, i]])
            if with_it >= least:
                keys[many] = with_it << 32 | np.int64(features[row, i])
                many += 1
        ordered = np.sort(keys[:many])
        for i in range(out.shape[1]):
            out[row, i] = ordered[i] & 0xFFFFFFFF if i < many else -1


@compiled
def _alike(a: np.ndarray, b: np.ndarray, full: int, weights: np.ndarray) -> float:
    """Return the similarity of two texts (0 to 1) by their features. Feature lists of length `full` are truncated, so both
    are compared only up to the smaller last feature."""
    reach = np.int32(2**31 - 1)
    if len(a) >= full:
        reach = min(reach, a[-1])
    if len(b) >= full:
        reach = min(reach, b[-1])
    i = j = 0
    weight_a = weight_b = shared = 0.0
    while i < len(a) or j < len(b):
        x = a[i] if i < len(a) else np.int32(2**31 - 1)
        y = b[j] if j < len(b) else np.int32(2**31 - 1)
        lower = min(x, y)
        if lower > reach:
            break
        weight = np.float64(weights[lower])
        weight_a += weight * (x == lower)  # without branches, which would often be mispredicted
        weight_b += weight * (y == lower)
        shared += weight * (x == y)
        i += x == lower
        j += y == lower
    if shared == 0.0:
        return 0.0
    return _CONTAINED * shared / min(weight_a, weight_b) + (1.0 - _CONTAINED) * 2.0 * shared / (weight_a + weight_b)


@compiled
def nearest(
    queries: np.ndarray, counts: np.ndarray, rare: np.ndarray, first: int, index: Index
) -> tuple[np.ndarray, np.ndarray]:
    """Return the most similar text (int64; -1: none) for each query, among those that share its rarest features, and the
    similarity (float64).

    Args:
        queries: Features (int32, ascending) of the queries.
        counts: The number of features of each query.
        rare: Their rarest features, the rarest first (int32; -1: no more).
        first: Query i is text ``first + i``, which is not compared with itself; -1: the queries are not texts of the index.
    """
    best, strength = np.full(len(queries), -1, np.int64), np.zeros(len(queries), np.float64)
    top, tops = np.empty(_COMPARED, np.int64), np.empty(_COMPARED, np.float32)
    score = np.zeros(len(index.features), np.float32)
    touched = np.empty(_EFFORT, np.int64)
    full = index.features.shape[1]
    for query in range(len(queries)):
        count, budget, weight = 0, _EFFORT, np.float32(0.0)
        for i in range(rare.shape[1]):
            feature = rare[query, i]
            if feature < 0:
                break
            only = index.only[feature]
            start, end = index.starts[feature], index.starts[feature + 1]
            if only >= 0:
                start, end = 0, 1
            if end - start > budget:
                continue
            budget -= end - start
            weight += index.weights[feature]
            for at in range(start, end):
                row = only if only >= 0 else index.rows[at]
                if score[row] == 0.0:
                    touched[count] = row
                    count += 1
                score[row] += index.weights[feature]
        if first >= 0:
            score[first + query] = np.float32(-1.0)
        candidates = 0  # the best touched texts, by score, then by number
        for i in range(count):
            row = touched[i]
            if score[row] < _SHARED * weight:
                continue
            value = score[row] / index.roots[row]
            if candidates == _COMPARED and value <= tops[_COMPARED - 1]:
                continue
            place = min(candidates, _COMPARED - 1)
            while place > 0 and tops[place - 1] < value:
                tops[place], top[place] = tops[place - 1], top[place - 1]
                place -= 1
            tops[place], top[place] = value, row
            candidates = min(candidates + 1, _COMPARED)
        # the candidates, then the first touched: those that share the rarest features
        for i in range(candidates + min(count, _COMPARED)):
            row = top[i] if i < candidates else touched[i - candidates]
            if score[row] < _SHARED * weight:
                continue
            features = index.features[row, : index.counts[row]]
            value = _alike(queries[query, : counts[query]], features, full, index.weights)
            if value > strength[query] or (value == strength[query] and row < best[query]):
                best[query], strength[query] = row, value
        for i in range(count):
            score[touched[i]] = 0.0
        if first >= 0:
            score[first + query] = 0.0
    return best, strength
