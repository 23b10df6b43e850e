"""Finds for every text the one most like it, so that edited copies share a split. Removing duplicates is another, stricter
relation (see data/dedup).

Texts are compared by the parts of their words (three letters), their words, and pairs of words near each other; so a typing
error, a word more or less and another order leave most of a text as it is. A feature counts by its rarity, log(1 + n / texts
with it), as in TF-IDF. Likeness is 0.3 times containment (what both share, over the lighter of the two: a greeting hides
nothing) plus 0.7 times the Dice coefficient. Only a text's nearest neighbour is linked to it: chains of such links stay short,
and an edited copy is nearly always nearer to its original than to anything else (benchmarks/edited_copies.py).

The cost is bounded: of a text 96 features are kept (those with the smallest hashes), up to 3,000 texts that share its 32
rarest are looked at, and 32 of them compared: the best by what is shared, and those that share the rarest features (so that
many rows with one long greeting do not hide each other's originals).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_pipeline.data.dedup.near_duplicates import code_points

LEAST = 0.3
"""Likeness from which the nearest text shares a split. One in twenty copies with three typing errors lies below 0.4."""
_FEATURES, _RAREST = 96, 32
_BITS = 20
_TEXTS_AT_ONCE = 2048


@dataclass(frozen=True)
class Nearest:
    """Of every query its most alike text (int64; -1: none at LEAST or above) and how alike it is (float64)."""

    text: np.ndarray
    strength: np.ndarray


class AlikeIndex:
    """Texts in loose form, given in blocks, ready to be looked up. The texts are not kept, only a kilobyte of each."""

    def __init__(self, blocks: Iterable[Sequence[str]], many: bool = False) -> None:
        """many: More than 50,000 texts, which need more different features."""
        from finetune_pipeline.data.split import alike_kernels as kernels

        self._bits = bits = _BITS + 2 * many
        parts = [_features(forms, bits) for forms in blocks] or [_features([], bits)]
        features, counts = (np.concatenate(of) for of in zip(*parts, strict=True))
        n = len(counts)
        self._texts, only = np.zeros(2**bits, np.int64), np.full(2**bits, -1, np.int32)
        kernels.texts_with(features, counts, self._texts, only)
        only[self._texts > 1] = -1
        weights = np.log1p(max(1, n) / np.maximum(1, self._texts)).astype(np.float32)
        roots = np.empty(n, np.float32)
        kernels.weigh(features, counts, weights, roots)
        self._rare = np.empty((n, _RAREST), np.int32)
        kernels.rarest(features, counts, self._texts, 2, self._rare)
        starts = np.zeros(2**bits + 1, np.int64)
        np.cumsum(np.bincount(self._rare[self._rare >= 0], minlength=2**bits), out=starts[1:])
        rows = np.empty(starts[-1], np.int32)
        kernels.list_texts(self._rare, starts, rows)
        self._index = kernels.Index(features, counts, starts, rows, only, weights, roots)

    def nearest(self, forms: Sequence[str] | None = None) -> Nearest:
        """The most alike text of each of these forms; without forms, of each text of the index besides itself."""
        from finetune_pipeline.data.split import alike_kernels as kernels

        if forms is None:
            features, counts, rare = self._index.features, self._index.counts, self._rare
        else:
            features, counts = _features(forms, self._bits)
            rare = np.empty((len(forms), _RAREST), np.int32)
            kernels.rarest(features, counts, self._texts, 1, rare)
        best, strength = kernels.nearest(features, counts, rare, forms is None, self._index)
        best[strength < LEAST] = -1
        return Nearest(best, strength)


def _features(forms: Sequence[str], bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(features (int32, [n, 96], ascending), how many each form has (int32, [n]))."""
    from finetune_pipeline.data.split import alike_kernels as kernels

    kept = np.zeros((len(forms), _FEATURES), np.int32)
    counts = np.zeros(len(forms), np.int32)
    for start in range(0, len(forms), _TEXTS_AT_ONCE):
        part = slice(start, start + _TEXTS_AT_ONCE)
        kernels.features_of(*code_points(forms[part]), bits, kept[part], counts[part])
    return kept, counts
