"""Finds the rows that ask nearly the same. A cluster is a connected component of prompts with Jaccard similarity at or
above the threshold, boilerplate left out. Its rows must share a split; which of them are duplicates is decided in
:mod:`finetune_pipeline.data.dedup.duplicate_resolution`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_pipeline.data.dedup.boilerplate import Boilerplate
from finetune_pipeline.data.dedup.near_duplicates import components, loose_forms, verified_pairs
from finetune_pipeline.data.dedup.row_table import RowTable
from finetune_pipeline.spec import TaskSpec


@dataclass(frozen=True)
class Clusters:
    """The clusters of a table's rows.

    Attributes:
        labels: The cluster of every row, numbered from 0 (int64, [n]).
        count: Number of clusters.
        prompts: Number of different prompts.
        pairs: Number of pairs of similar prompts.
        suspects: (row, other row, cosine similarity) of different prompts the embedding model takes for alike.
    """

    labels: np.ndarray
    count: int
    prompts: int
    pairs: int
    suspects: Sequence[tuple[int, int, float]]

    def names(self, ids: np.ndarray) -> np.ndarray:
        """For every row the smallest of the ids (uint64, [n]) in its cluster: the cluster's name."""
        smallest = np.full(self.count, np.iinfo(np.uint64).max, np.uint64)
        np.minimum.at(smallest, self.labels, ids)
        named: np.ndarray = smallest[self.labels]
        return named

    def of_several(self, rows: np.ndarray, at_once: int = 20_000) -> Iterator[list[np.ndarray]]:
        """Clusters with two or more of these rows (int64): their members, in batches of about so many members."""
        several = np.bincount(self.labels[rows], minlength=self.count)[self.labels[rows]] > 1
        rows = rows[several]
        order = rows[np.argsort(self.labels[rows], kind="stable")]
        batch: list[np.ndarray] = []
        size = 0
        for members in np.split(order, np.flatnonzero(np.diff(self.labels[order])) + 1) if len(order) else ():
            batch.append(members)
            size += len(members)
            if size >= at_once:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


def cluster_rows(table: RowTable, sketches: np.ndarray, boilerplate: Boilerplate, spec: TaskSpec) -> Clusters:
    """Cluster all rows by their prompts (`sketches`: those of the rows)."""
    keys, first, prompt = np.unique(table.rows["prompt"], return_index=True, return_inverse=True)

    def forms_of(which: np.ndarray) -> list[str]:
        return loose_forms([e.user_text for e in table.fetch(first[which])], boilerplate)

    pairs, _ = verified_pairs(sketches[first], spec.data.near_duplicate_threshold, forms_of)
    suspects = _semantic_suspects(table, np.sort(first), spec)
    edges = pairs
    if suspects and spec.data.semantic is not None and spec.data.semantic.remove:
        edges = np.concatenate([pairs, prompt[[(i, j) for i, j, _ in suspects]]])
    of_prompt = components(len(keys), edges)
    return Clusters(of_prompt[prompt], int(of_prompt.max(initial=-1)) + 1, len(keys), len(pairs), suspects)


def _semantic_suspects(table: RowTable, first: np.ndarray, spec: TaskSpec) -> list[tuple[int, int, float]]:
    """Suspects among one row of each prompt (`first`, ascending), where the spec asks for them."""
    if spec.data.semantic is None:
        return []
    from finetune_pipeline.data.dedup.semantic import suspects

    found = suspects([e.user_text for e in table.fetch(first)], spec.data.semantic)
    return [(int(first[i]), int(first[j]), float(likeness)) for i, j, likeness in found]
