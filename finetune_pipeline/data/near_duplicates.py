"""Near-duplicate texts of a whole set: verified pairs, and the clusters they join."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune_pipeline.data.buckets import COLUMNS
from finetune_pipeline.data.sketches import candidate_pairs, kernels_for, loose_forms, row_keys, similarities, sketch
from finetune_pipeline.data.templates import Templates

NEAR_ENOUGH = 1e-9  # what rounding may take off a similarity
_ROWS = 2048  # sketched at once
_CHARACTERS = 16_000_000  # verified at once


def near_duplicate_pairs(
    texts: Sequence[str], threshold: float, templates: Templates | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(pairs int64 [m, 2], first < second, sorted; their Jaccard similarity float64 [m]), all at the threshold or above.

    Rows with equal loose forms are collapsed first: each later one is paired with the first of them only, and other rows
    are paired with the first. Besides the texts some 300 bytes a row are needed, and time is linear.
    """
    n = len(texts)
    kernels_for(sum(map(len, texts)))  # for all blocks or for none
    sketches, keys = _sketches(texts, threshold, templates)
    representatives, links = _collapse(keys)
    del keys
    if len(representatives) < n:
        for start in range(0, len(representatives), _ROWS):  # forward and in place: a row never moves down
            chosen = representatives[start : start + _ROWS]
            sketches[start : start + len(chosen)] = sketches[chosen]
    pairs = representatives[candidate_pairs(sketches[: len(representatives)], None, threshold)]
    del sketches
    pairs = np.concatenate([pairs, links])
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs = pairs[order]
    likeness = _verify(texts, pairs, templates)
    alike = likeness >= threshold - NEAR_ENOUGH
    return pairs[alike], likeness[alike]


def near_duplicate_clusters(texts: Sequence[str], threshold: float, templates: Templates | None = None) -> np.ndarray:
    """Cluster number (int64, [n]) of every text: connected components of the pairs with similarity ≥ threshold."""
    return components(len(texts), near_duplicate_pairs(texts, threshold, templates)[0])


def components(n: int, pairs: np.ndarray) -> np.ndarray:
    """Component number (int64, [n], from 0 by first row) of every row, rows being joined by pairs (int64, [m, 2]).

    Every root with a smaller neighbour is hooked to the smallest, then all paths are cut to one step (Shiloach and
    Vishkin, 1982), until nothing is left to hook. Here and not scipy's, whose import takes longer than the work on a few
    thousand pairs, the usual case when rows are added.
    """
    root = np.arange(n, dtype=np.int64)
    left, right = pairs[:, 0], pairs[:, 1]
    while len(left):
        one, other = root[left], root[right]
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        while True:
            above = root[root]
            if np.array_equal(above, root):
                break
            root = above
        open_ = root[left] != root[right]
        left, right = left[open_], right[open_]
    return np.cumsum(root == np.arange(n))[root] - 1


def _sketches(texts: Sequence[str], threshold: float, templates: Templates | None) -> tuple[np.ndarray, np.ndarray]:
    """The sketch and the 64-bit key of every text's loose form; the forms themselves are not kept."""
    keys = np.empty(len(texts), np.uint64)
    sketches = np.empty((len(texts), COLUMNS), np.uint32)
    for start in range(0, len(texts), _ROWS):
        forms = loose_forms(texts[start : start + _ROWS], templates)
        keys[start : start + _ROWS] = row_keys(forms)
        sketches[start : start + _ROWS] = sketch(forms, threshold)
    return sketches, keys


def _collapse(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows that are the first with their key, ascending; pairs (first, later) for all others)."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    new = np.ones(len(keys), np.bool_)
    new[1:] = ordered[1:] != ordered[:-1]
    first = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
    return np.sort(order[new]), np.stack([first[~new], order[~new]], 1)


def _verify(texts: Sequence[str], pairs: np.ndarray, templates: Templates | None) -> np.ndarray:
    """Exact similarities of pairs, by stretches that need a bounded number of characters."""
    likeness = np.empty(len(pairs), np.float64)
    lengths = np.array([len(t) for t in texts], np.int64) if len(pairs) else np.zeros(0, np.int64)
    ends = np.cumsum(lengths[pairs].sum(axis=1))
    start = 0
    while start < len(pairs):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _CHARACTERS, side="right")))
        rows, places = np.unique(pairs[start:stop], return_inverse=True)
        forms = loose_forms([texts[i] for i in rows], templates)
        likeness[start:stop] = similarities(forms, places.reshape(-1, 2))
        start = stop
    return likeness
