"""Which rows ask nearly the same: verified pairs of prompts, and the clusters they join. Pairs once verified are kept.

A cluster is a connected component of prompts with Jaccard similarity at or above the threshold, templates left out. Its
rows must share a split; which of them are duplicates is decided in :mod:`finetune_pipeline.data.settling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline.artifacts import digest_json
from finetune_pipeline.data.band_search import bounds_of, sharing, taken
from finetune_pipeline.data.buckets import candidate_pairs
from finetune_pipeline.data.columns import Table
from finetune_pipeline.data.growth import isin
from finetune_pipeline.data.near_duplicates import components
from finetune_pipeline.data.sketches import loose_forms, similarities
from finetune_pipeline.data.templates import Templates
from finetune_pipeline.progress import tell
from finetune_pipeline.spec import TaskSpec

CODE = "1"
KNOWN = "pairs.npz"
_ROWS_AT_ONCE = 100_000
_NEAR_ENOUGH = 1e-9


@dataclass(frozen=True)
class Pairs:
    """Verified pairs among prompts: `keys` (uint64, sorted) names every prompt compared, `left` and `right` (uint64,
    [m]) those of each pair, `similarity` (float64, [m]). `basis`: digest of what the comparison depends on."""

    basis: str
    keys: np.ndarray
    left: np.ndarray
    right: np.ndarray
    similarity: np.ndarray

    def save(self, path: Path) -> None:
        """Write the pairs to one file."""
        np.savez(
            path,
            basis=np.array(self.basis),
            keys=self.keys,
            left=self.left,
            right=self.right,
            similarity=self.similarity,
        )

    @classmethod
    def load(cls, path: Path) -> Pairs:
        """Pairs of a file :meth:`save` wrote."""
        with np.load(path) as told:
            return cls(str(told["basis"]), *(told[name] for name in ("keys", "left", "right", "similarity")))


def basis(threshold: float, templates: Templates) -> str:
    """Digest of what the similarity of two prompts depends on besides the prompts."""
    return digest_json([CODE, threshold, templates.to_dict()])


def known_pairs(earlier: Sequence[Path], wanted: str) -> Pairs | None:
    """The pairs of the first earlier folder that were found on the same basis."""
    for folder in earlier:
        if (folder / KNOWN).is_file():
            pairs = Pairs.load(folder / KNOWN)
            if pairs.basis == wanted:
                return pairs
    return None


def find_pairs(
    table: Table, sketches: Sequence[Path], threshold: float, templates: Templates, known: Pairs | None
) -> Pairs:
    """All verified pairs among the prompts of `table`; only prompts that `known` has not seen are compared anew."""
    keys, first = np.unique(table.rows["prompt"], return_index=True)
    fresh = None if known is None else ~_isin(keys, known.keys)
    if not len(keys) or (fresh is not None and not fresh.any()):
        found = np.zeros((0, 2), np.int64)
    else:
        sketched = np.concatenate([np.load(path, mmap_mode="r") for path in sketches])[first]
        found = candidate_pairs(sketched, fresh, threshold)
        del sketched
    tell("clean_examples", f"{len(keys)} prompts, {len(found)} candidate pairs", rows=len(table.rows))
    likeness = _verify(table, first, found, templates)
    alike = likeness >= threshold - _NEAR_ENOUGH
    found, likeness = found[alike], likeness[alike]
    left, right = keys[found[:, 0]], keys[found[:, 1]]
    left, right = np.minimum(left, right), np.maximum(left, right)
    if known is not None:
        kept = _isin(known.left, keys) & _isin(known.right, keys)
        left = np.concatenate([known.left[kept], left])
        right = np.concatenate([known.right[kept], right])
        likeness = np.concatenate([known.similarity[kept], likeness])
    order = np.lexsort((right, left))
    return Pairs(basis(threshold, templates), keys, left[order], right[order], likeness[order])


def more_pairs(
    table: Table, sketches: Sequence[Path], threshold: float, templates: Templates, known: Pairs, new: np.ndarray
) -> Pairs:
    """`known`, and the pairs of prompts that only the rows `new` (int64) have: what :func:`find_pairs` gives, in time that
    depends on their number, but for one look at every sketch."""
    prompts = table.rows["prompt"]
    fresh = np.unique(prompts[new])
    fresh = fresh[~_isin(fresh, known.keys)]
    if not len(fresh):
        return known
    bounds = bounds_of(table.part, len(sketches))
    _, at = np.unique(prompts[new], return_index=True)
    asking = np.sort(new[at])
    reached = sharing(sketches, taken(sketches, bounds, asking[_isin(prompts[asking], fresh)]))
    there = np.flatnonzero(isin(prompts, prompts[reached]))
    keys, first = np.unique(prompts[there], return_index=True)
    first = there[first]  # of the rows with one prompt the first stands for all
    seen = np.isin(first, reached)
    keys, first = keys[seen], first[seen]
    order = np.argsort(first)
    keys, first = keys[order], first[order]
    found = candidate_pairs(taken(sketches, bounds, first), _isin(keys, fresh), threshold)
    tell("clean_examples", f"{len(fresh)} new prompts, {len(found)} candidate pairs", rows=len(table.rows))
    likeness = _verify(table, first, found, templates)
    alike = likeness >= threshold - _NEAR_ENOUGH
    left, right = keys[found[alike, 0]], keys[found[alike, 1]]
    left, right, likeness = (
        np.concatenate([known.left, np.minimum(left, right)]),
        np.concatenate([known.right, np.maximum(left, right)]),
        np.concatenate([known.similarity, likeness[alike]]),
    )
    order = np.lexsort((right, left))
    grown = np.insert(known.keys, np.searchsorted(known.keys, fresh), fresh)
    return Pairs(known.basis, grown, left[order], right[order], likeness[order])


def reached_by(table: Table, pairs: Pairs, new: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """(all rows in a cluster with one of the rows `new`, ascending; their clusters' numbers; how many clusters there
    are)."""
    prompts = table.rows["prompt"]
    asked = np.unique(prompts[new])
    nodes = np.unique(np.concatenate([pairs.left, pairs.right, asked]))
    edges = np.stack([np.searchsorted(nodes, pairs.left), np.searchsorted(nodes, pairs.right)], 1)
    labels = components(len(nodes), edges.astype(np.int64))
    count = int(labels.max(initial=-1)) + 1
    chosen = np.zeros(count, bool)
    chosen[labels[np.searchsorted(nodes, asked)]] = True
    rows = np.flatnonzero(isin(prompts, nodes[chosen[labels]]))
    return rows, labels[np.searchsorted(nodes, prompts[rows])], len(pairs.keys) - len(nodes) + count


def _isin(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Which values are in the sorted array."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    at = np.searchsorted(ordered, values)
    at[at == len(ordered)] = 0
    same: np.ndarray = ordered[at] == values
    return same


def _verify(table: Table, first: np.ndarray, pairs: np.ndarray, templates: Templates) -> np.ndarray:
    """Jaccard similarity of candidate pairs, by batches of pairs that need a bounded number of texts."""
    likeness = np.zeros(len(pairs), np.float64)
    at = 0
    while at < len(pairs):
        upto = min(len(pairs), at + _ROWS_AT_ONCE)
        needed, places = np.unique(pairs[at:upto], return_inverse=True)
        forms = loose_forms([e.user_text for e in table.fetch(first[needed])], templates)
        likeness[at:upto] = similarities(forms, places.reshape(-1, 2))
        at = upto
    return likeness


def semantic_suspects(table: Table, spec: TaskSpec) -> list[tuple[int, int, float]]:
    """(row, other row, cosine similarity) of different prompts the spec's embedding model takes for alike; else none."""
    if spec.data.semantic is None:
        return []
    from finetune_pipeline.data.semantic import suspects

    _, first = np.unique(table.rows["prompt"], return_index=True)
    first.sort()
    found = suspects([e.user_text for e in table.fetch(first)], spec.data.semantic)
    return [(int(first[i]), int(first[j]), float(likeness)) for i, j, likeness in found]


def with_suspects(pairs: Pairs, table: Table, found: Sequence[tuple[int, int, float]]) -> Pairs:
    """The pairs, and the suspects among them as if they were near-duplicates."""
    if not found:
        return pairs
    prompts = table.rows["prompt"]
    left, right = prompts[[i for i, _, _ in found]], prompts[[j for _, j, _ in found]]
    return Pairs(
        pairs.basis,
        pairs.keys,
        np.concatenate([pairs.left, left]),
        np.concatenate([pairs.right, right]),
        np.concatenate([pairs.similarity, [pair[2] for pair in found]]),
    )


def cluster(table: Table, pairs: Pairs) -> np.ndarray:
    """The cluster (int64, [n]) of every row, numbered from 0 by first appearance of its prompt in key order."""
    edges = np.stack([np.searchsorted(pairs.keys, pairs.left), np.searchsorted(pairs.keys, pairs.right)], 1)
    labels = components(len(pairs.keys), edges.astype(np.int64))
    found: np.ndarray = labels[np.searchsorted(pairs.keys, table.rows["prompt"])]
    return found


def cluster_ids(ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For every row the smallest of the ids (uint64) in its cluster: the cluster's name."""
    if not len(labels):
        return np.zeros(0, np.uint64)
    smallest = np.full(int(labels.max()) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, labels, ids)
    return smallest[labels]


def describe(pairs: Pairs) -> dict[str, Any]:
    """Counts for people."""
    return {"prompts": len(pairs.keys), "similar_pairs": len(pairs.left)}
