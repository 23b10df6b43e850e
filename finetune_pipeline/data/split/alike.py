"""Finds each row's nearest neighbours, so that edited copies share a split (see placement.py). Removing duplicates uses another,
stricter relation (see data/dedup).

Texts are compared by their tokens (see dedup/tokens.py). A token, here a feature, weighs log(1 + n / texts with it), as in TF-IDF.
Two measures find different edits: the Dice coefficient finds copies with other words; mixed with containment (shared weight over
that of the lighter text) it finds copies cut short or with words around them. A text is linked to its nearest neighbour by each.
Links are followed in the order of how far the neighbour stands out from the next two: an original does so, while texts of one
family are all equally near (benchmarks/edited_copies.py).

The cost is bounded: texts that share a text's rarest features are examined, at most _EXAMINED, and the best _COMPARED of them are
compared in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from finetune_pipeline.data.dedup.row_table import KEPT, RowTable
from finetune_pipeline.data.dedup.tokens import first_of_rows, token_sets
from finetune_pipeline.data.examples import ORIGINS
from finetune_pipeline.data.workers import available_cores

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

LEAST = 0.1
"""A row and its nearest texts share a split from this similarity on. One in twenty copies with half of the words replaced is
below 0.16."""
REPEATS = 0.5
"""From this similarity on a row repeats another. A human row and another share a split only then: with LEAST, every fifth row from
production would be lost, because its nearest neighbour happens to be in the test."""
_CONTAINED = 0.3
"""Weight of containment in the mixed measure."""
_RAREST, _EXAMINED, _COMPARED = 32, 500, 16
_SHARED = 0.1
"""Minimum share of the rarest features' weight that a text must share with a query to be compared."""
_ROWS_AT_ONCE, _QUERIES_AT_ONCE = 20_000, 1_000
_HUMAN = ORIGINS.index("human")


@dataclass(frozen=True)
class Links:
    """Pairs of similar rows, those that stand out most first: row numbers (int64, [m] each) and similarity (float64, [m])."""

    left: np.ndarray
    right: np.ndarray
    strength: np.ndarray


@dataclass(frozen=True)
class AlikeRows:
    """Similar kept rows. index: of their different texts. rows: for each text of the index, a row with it."""

    links: Links
    index: AlikeIndex
    rows: np.ndarray


@dataclass(frozen=True)
class Neighbours:
    """The nearest texts of queries, a column for each measure. text: numbers (int64, -1: none at LEAST or above). strength: mixed
    similarity. outstanding: how far the neighbour stands out from the next two."""

    text: np.ndarray
    strength: np.ndarray
    outstanding: np.ndarray


def alike_rows(table: RowTable) -> AlikeRows:
    """Find similar rows among the kept ones, one row per prompt."""
    kept_rows = np.flatnonzero(table.rows["state"] == KEPT)
    rows = np.sort(kept_rows[np.unique(table.rows["prompt"][kept_rows], return_index=True)[1]])
    index = AlikeIndex(table.token_sets(rows))
    near = index.nearest()
    query, measure = np.nonzero(near.text >= 0)
    left, right = np.sort(np.stack([rows[query], rows[near.text[query, measure]]]), axis=0)
    strength, outstanding = near.strength[query, measure], near.outstanding[query, measure]
    is_human = table.rows["origin"] == _HUMAN
    order = np.lexsort((right, left, -outstanding))
    order = order[(is_human[left] == is_human[right])[order] | (strength >= REPEATS)[order]]
    first = np.unique(left[order] << 32 | right[order], return_index=True)[1]  # two rows may be each other's nearest
    order = order[np.sort(first)]
    return AlikeRows(Links(left[order], right[order], strength[order]), index, rows)


class AlikeIndex:
    """An index that finds the most similar of its texts. features: of its texts (see :func:`.tokens.token_sets`); are
    changed."""

    def __init__(self, features: csr_matrix) -> None:
        from scipy.sparse import vstack

        self._texts = np.bincount(features.indices, minlength=features.shape[1]).astype(np.int32)
        texts = np.maximum(1, np.arange(self._texts.max(initial=0) + 1))
        self._weights = np.log1p(features.shape[0] / texts).astype(np.float32)
        self._features, self._sums = features, self._weigh(features)
        parts = _parts(features.shape[0], _ROWS_AT_ONCE)
        self._rare = vstack([self._rarest(features[part], 2) for part in parts], "csr")
        self._texts_with = self._rare.T.tocsr()

    def nearest(self, forms: Sequence[str] | None = None) -> Neighbours:
        """Find the nearest texts of each form; without forms, those of each text of the index among the others."""
        if forms is None:
            features, sums, rare, texts_with = self._features, self._sums, self._rare, self._texts_with
        else:
            features = token_sets(forms, self._features.shape[1])
            sums = self._weigh(features)
            rare = self._rarest(features, 1)  # a feature of a single text of the index is the best clue
            texts_with = self._all_texts_with(rare.indices)

        def look_up(part: slice) -> Neighbours:
            first = part.start if forms is None else None
            return self._nearest(features[part], sums[part], rare[part] @ texts_with, rare[part], first)

        with ThreadPoolExecutor(available_cores()) as pool:
            blocks = list(pool.map(look_up, _parts(features.shape[0], _QUERIES_AT_ONCE)))
        names = ("text", "strength", "outstanding")
        return Neighbours(*(np.concatenate([getattr(block, name) for block in blocks]) for name in names))

    def _weigh(self, features: csr_matrix) -> np.ndarray:
        """Put the roots of the weights into these features, so that a product sums weights. Returns the weight of each text."""
        weights = self._weights[self._texts[features.indices]]
        features.data = np.sqrt(weights)
        return _row_sums(weights, features.indptr)

    def _rarest(self, features: csr_matrix, least: int) -> csr_matrix:
        """Keep of each text its rarest features with `least` texts or more, as long as these are at most _EXAMINED in total."""
        from scipy.sparse import csr_matrix

        row = np.repeat(np.arange(features.shape[0]), np.diff(features.indptr))
        texts = self._texts[features.indices]
        order = np.lexsort((texts, row))
        order = order[texts[order] >= least]
        counts = np.bincount(row[order], minlength=features.shape[0])
        starts = np.append(0, np.cumsum(counts))
        shape = features.shape
        rarest = csr_matrix((features.data[order], features.indices[order], starts), shape)
        examined = np.append(0, np.cumsum(texts[order], dtype=np.int64))
        within = examined[1:] - np.repeat(examined[starts[:-1]], counts) <= _EXAMINED
        return first_of_rows(rarest, within, _RAREST)

    def _all_texts_with(self, wanted: np.ndarray) -> csr_matrix:
        """Return the texts of the index with these features (float32, [width, n])."""
        from scipy.sparse import csr_matrix

        is_wanted = np.zeros(self._features.shape[1], bool)
        is_wanted[wanted] = True
        entries = np.flatnonzero(is_wanted[self._features.indices])
        text = np.searchsorted(self._features.indptr, entries, side="right") - 1
        place = (self._features.indices[entries], text)
        return csr_matrix((self._features.data[entries], place), self._features.shape[::-1])

    def _nearest(
        self, features: csr_matrix, sums: np.ndarray, shared: csr_matrix, rare: csr_matrix, first: int | None
    ) -> Neighbours:
        """Find the nearest texts of a block of queries. shared: the weight of their rarest features (`rare`) that each text has.
        first: the number of the first query in the index; None: they are not of the index."""
        query = np.repeat(np.arange(shared.shape[0]), np.diff(shared.indptr))
        text, weight = shared.indices, shared.data
        is_candidate = weight >= _SHARED * _row_sums(rare.data**2, rare.indptr)[query]
        if first is not None:
            is_candidate &= text != query + first
        query, text, weight = query[is_candidate], text[is_candidate], weight[is_candidate]
        order = np.lexsort((text, -weight / np.sqrt(self._sums[text]), query))
        query, text = query[order], text[order]
        place = np.arange(len(query)) - np.searchsorted(query, query)
        query, text, place = (values[place < _COMPARED] for values in (query, text, place))
        weight = features[query].multiply(self._features[text]).sum(1).A1
        dice = 2 * weight / (sums[query] + self._sums[text])
        mixed = _CONTAINED * weight / np.minimum(sums[query], self._sums[text]) + (1 - _CONTAINED) * dice
        best = [self._best(query, place, text, measure, mixed, features.shape[0]) for measure in (mixed, dice)]
        return Neighbours(*(np.stack(columns, 1) for columns in zip(*best, strict=True)))

    @staticmethod
    def _best(
        query: np.ndarray, place: np.ndarray, text: np.ndarray, measure: np.ndarray, mixed: np.ndarray, queries: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for each query the text with the highest measure, its mixed similarity, and how far it stands out."""
        values, mixed_values = np.zeros((2, queries, max(3, _COMPARED)))
        texts = np.full(values.shape, -1, np.int64)
        values[query, place], mixed_values[query, place], texts[query, place] = measure, mixed, text
        order = np.argsort(-values, axis=1, kind="stable")[:, :3]
        top = np.take_along_axis(values, order, 1)
        rows, best = np.arange(queries), order[:, 0]
        strength = mixed_values[rows, best]
        return np.where(strength >= LEAST, texts[rows, best], -1), strength, 2 * top[:, 0] - top[:, 1] - top[:, 2]


def _row_sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    sums: np.ndarray = np.add.reduceat(np.append(values, 0), starts[:-1]) * (np.diff(starts) > 0)
    return sums


def _parts(rows: int, size: int) -> list[slice]:
    """Cut this many rows into chunks; without rows there is one empty chunk."""
    return [slice(start, start + size) for start in range(0, max(1, rows), size)]
