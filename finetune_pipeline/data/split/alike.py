"""Finds each row's nearest neighbour, so that edited copies share a split (see placement.py). Removing duplicates uses another,
stricter relation (see data/dedup).

Texts are compared by three-letter parts of words, words, and pairs of nearby words. So a typing error, an added or missing word
or another order changes few features of a text. A feature is weighted by its rarity, log(1 + n / texts with it), as in TF-IDF.
Similarity is 0.3 times containment (shared weight over that of the lighter text, so an added greeting does not matter) plus 0.7
times the Dice coefficient. A text is linked only to its nearest neighbour: chains of such links stay short, and an edited copy
is nearly always nearer to its original than to anything else (benchmarks/edited_copies.py).

The cost is bounded: a text keeps 96 features (those with the smallest hashes). Up to 3,000 texts that share its 32 rarest
features are examined, and 32 of them are compared: those with the most shared weight, and those that share the rarest features
(so many rows with one long greeting do not hide each other's originals).
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from finetune_pipeline.data.dedup.boilerplate import Boilerplate
from finetune_pipeline.data.dedup.near_duplicates import code_points, loose_forms, near_duplicate_clusters
from finetune_pipeline.data.dedup.row_table import KEPT, RowTable
from finetune_pipeline.data.examples import ORIGINS, decode_examples
from finetune_pipeline.data.workers import available_cores, in_order

LEAST = 0.3
"""A row and its nearest text share a split from this similarity on. One in twenty copies with three typos is below 0.4."""
NOT_HUMAN_SIMILARITY = 0.55
"""A human row and another row share a split from this similarity on. With the lower LEAST, every fifth row from production would
be lost, because its nearest neighbour happens to be in the test."""
_FEATURES, _RAREST = 96, 32
_MANY = 50_000
"""With more texts than this, features have 22 bits instead of 20."""
_ROWS_AT_ONCE = 20_000
_HUMAN = ORIGINS.index("human")


@dataclass(frozen=True)
class Links:
    """Pairs of similar rows, most similar first: row numbers (int64, [m] each) and similarity (float64, [m])."""

    left: np.ndarray
    right: np.ndarray
    strength: np.ndarray


@dataclass(frozen=True)
class AlikeRows:
    """Similar kept rows. index: of their different texts. rows: for each text of the index, a row with it."""

    links: Links
    index: AlikeIndex
    rows: np.ndarray


def alike_rows(table: RowTable, boilerplate: Boilerplate) -> AlikeRows:
    """Find similar rows among the kept ones, one row per prompt."""
    kept_rows = np.flatnonzero(table.rows["state"] == KEPT)
    rows = np.sort(kept_rows[np.unique(table.rows["prompt"][kept_rows], return_index=True)[1]])
    index = _index_of(table, rows, boilerplate)
    neighbour, strength = index.nearest()
    linked = np.flatnonzero(neighbour >= 0)
    left, right = np.sort(np.stack([rows[linked], rows[neighbour[linked]]]), axis=0)
    strength = strength[linked]
    order = np.lexsort((right, left, -strength))
    first = np.unique(left[order] << 32 | right[order], return_index=True)[1]  # two rows may be each other's nearest
    order = order[np.sort(first)]
    left, right, strength = left[order], right[order], strength[order]
    is_strong_enough = (table.rows["origin"][left] == _HUMAN) == (table.rows["origin"][right] == _HUMAN)
    is_strong_enough |= strength >= NOT_HUMAN_SIMILARITY
    return AlikeRows(Links(left[is_strong_enough], right[is_strong_enough], strength[is_strong_enough]), index, rows)


def _index_of(table: RowTable, rows: np.ndarray, boilerplate: Boilerplate) -> AlikeIndex:
    bits = 22 if len(rows) > _MANY else 20
    parts = (rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE))
    size = int((table.rows["end"][rows] - table.rows["start"][rows]).sum())
    read = partial(_features_of_lines, boilerplate=boilerplate, bits=bits)
    features, counts, filled = np.zeros((len(rows), _FEATURES), np.int32), np.zeros(len(rows), np.int32), 0
    for block, block_counts in in_order(read, map(table.lines, parts), size):
        features[filled : filled + len(block)], counts[filled : filled + len(block)] = block, block_counts
        filled += len(block)
    return AlikeIndex(features, counts, bits)


def _features_of_lines(lines: bytes, boilerplate: Boilerplate, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (features, their counts) of rows in canonical JSON."""
    return features_of(loose_forms([e.user_text for e in decode_examples(lines)], boilerplate), bits)


class AlikeIndex:
    """An index that finds the most similar of its texts. It stores only their features: a kilobyte per text."""

    def __init__(self, features: np.ndarray, counts: np.ndarray, bits: int) -> None:
        from finetune_pipeline.data.split import alike_kernels as kernels

        self._bits, n = bits, len(counts)
        self._texts, only = np.zeros(2**bits, np.int32), np.full(2**bits, -1, np.int32)
        kernels.texts_with(features, counts, self._texts, only)
        only[self._texts > 1] = -1
        weights = np.log1p(max(1, n) / np.maximum(1, self._texts)).astype(np.float32)
        roots = np.empty(n, np.float32)
        kernels.weigh(features, counts, weights, roots)
        self._rare = np.empty((n, _RAREST), np.int32)

        def choose(part: slice) -> None:
            kernels.rarest(features[part], counts[part], self._texts, 2, self._rare[part])

        with ThreadPoolExecutor(available_cores()) as pool:  # the kernels do not hold the interpreter's lock
            list(pool.map(choose, _parts(n)))
        starts = np.zeros(2**bits + 1, np.int64)
        np.cumsum(np.bincount(self._rare[self._rare >= 0], minlength=2**bits), out=starts[1:])
        rows = np.empty(starts[-1], np.int32)
        kernels.list_texts(self._rare, starts, rows)
        self._index = kernels.Index(features, counts, starts, rows, only, weights, roots)

    def nearest(self, forms: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return for each form the most similar text (int64; -1: none at LEAST or above) and the similarity (float64). Without
        forms, do so for each text of the index, compared with the others."""
        from finetune_pipeline.data.split import alike_kernels as kernels

        if forms is None:
            features, counts, rare = self._index.features, self._index.counts, self._rare
        else:
            features, counts = features_of(forms, self._bits)
            rare = np.empty((len(forms), _RAREST), np.int32)
            kernels.rarest(features, counts, self._texts, 1, rare)

        def look_up(part: slice) -> tuple[np.ndarray, np.ndarray]:
            first = part.start if forms is None else -1
            texts, strengths = kernels.nearest(features[part], counts[part], rare[part], first, self._index)
            return texts, strengths

        with ThreadPoolExecutor(available_cores()) as pool:
            parts = list(pool.map(look_up, _parts(len(counts))))
        best, strength = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        best[strength < LEAST] = -1
        return best, strength


@contextlib.contextmanager
def kernels_compiled_meanwhile() -> Iterator[None]:
    """Compile the kernels of both similarity searches in another process while the caller does something else, unless numba's
    cache has them. Compilation takes 15 seconds of one core."""
    if any(Path(__file__).parent.glob("__pycache__/alike_kernels.nearest-*.nbi")):
        yield
        return
    call = f"from {__name__} import compile_kernels; compile_kernels()"
    devnull = subprocess.DEVNULL
    child = subprocess.Popen([sys.executable, "-P", "-c", call], stdin=devnull, stdout=devnull, stderr=devnull)
    try:
        yield
    finally:
        child.kill()
        child.wait()


def compile_kernels() -> None:
    """Compile each kernel into numba's cache on disk, by searching three short texts."""
    texts = [f"three dozen {item} for the kitchen" for item in ("croissants", "croissant", "baguettes")]
    near_duplicate_clusters(texts, 0.8)
    index = AlikeIndex(*features_of(texts, 20), 20)
    index.nearest()
    index.nearest(texts)


def _parts(rows: int) -> list[slice]:
    """Cut this many rows into chunks for threads; without rows there is one empty chunk."""
    return [slice(start, start + _ROWS_AT_ONCE) for start in range(0, max(1, rows), _ROWS_AT_ONCE)]


def features_of(forms: Sequence[str], bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (features (int32, [n, 96], ascending, each below 2 ** bits), the number of features of each form (int32, [n]))."""
    from finetune_pipeline.data.split import alike_kernels as kernels

    features = np.zeros((len(forms), _FEATURES), np.int32)
    counts = np.zeros(len(forms), np.int32)
    kernels.features_of(*code_points(forms), bits, features, counts)
    return features, counts
