"""Finds each row's nearest neighbour, so that edited copies share a split (see placement.py). Removing duplicates
is another, stricter relation (see data/dedup).

Texts are compared by the parts of their words (three letters), their words, and pairs of words near each other; so a
typing error, a word more or less and another order leave most of a text as it is. A feature counts by its rarity, log(1
+ n / texts with it), as in TF-IDF. Likeness is 0.3 times containment (what both share, over the lighter of the two: a
greeting hides nothing) plus 0.7 times the Dice coefficient. Only a text's nearest neighbour is linked to it: chains of
such links stay short, and an edited copy is nearly always nearer to its original than to anything else
(benchmarks/edited_copies.py).

The cost is bounded: of a text 96 features are kept (those with the smallest hashes), up to 3,000 texts that share its
32 rarest are looked at, and 32 of them compared: the best by what is shared, and those that share the rarest features
(so that many rows with one long greeting do not hide each other's originals).
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
"""Similarity from which the nearest text shares a split. One in twenty copies with three typing errors is below 0.4."""
NOT_HUMAN = 0.55
"""Likeness from which a row by a person and one that is not share a split: else every fifth row from production, whose
nearest neighbour happens to be in the test, would be lost."""
_FEATURES, _RAREST = 96, 32
_MANY = 50_000
"""Number of texts from which features have 22 bits instead of 20."""
_TEXTS_AT_ONCE, _ROWS_AT_ONCE = 2048, 20_000
_HUMAN = ORIGINS.index("human")


@dataclass(frozen=True)
class Links:
    """Pairs of similar rows, most similar first: row numbers (int64, [m] each) and similarity (float64, [m])."""

    left: np.ndarray
    right: np.ndarray
    strength: np.ndarray


@dataclass(frozen=True)
class AlikeRows:
    """Similar rows among those kept: links from each to its nearest neighbour, the index of their texts, and for each of
    these one row."""

    links: Links
    index: AlikeIndex
    rows: np.ndarray


def alike_rows(table: RowTable, boilerplate: Boilerplate) -> AlikeRows:
    """Find similar rows among those kept, one per prompt."""
    kept_rows = np.flatnonzero(table.rows["state"] == KEPT)
    rows = np.sort(kept_rows[np.unique(table.rows["prompt"][kept_rows], return_index=True)[1]])
    index = _index_of(table, rows, boilerplate)
    text, strength = index.nearest()
    linked = np.flatnonzero(text >= 0)
    left, right = np.sort(np.stack([rows[linked], rows[text[linked]]]), axis=0)
    strength = strength[linked]
    order = np.lexsort((right, left, -strength))
    order = order[np.sort(np.unique(left[order] << 32 | right[order], return_index=True)[1])]
    left, right, strength = left[order], right[order], strength[order]
    enough = (table.rows["origin"][left] == _HUMAN) == (table.rows["origin"][right] == _HUMAN)
    enough |= strength >= NOT_HUMAN
    return AlikeRows(Links(left[enough], right[enough], strength[enough]), index, rows)


def _index_of(table: RowTable, rows: np.ndarray, boilerplate: Boilerplate) -> AlikeIndex:
    bits = 22 if len(rows) > _MANY else 20
    parts = (rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE))
    size = int((table.rows["end"][rows] - table.rows["start"][rows]).sum())
    read = partial(_features_of_lines, boilerplate=boilerplate, bits=bits)
    features, counts, at = np.zeros((len(rows), _FEATURES), np.int32), np.zeros(len(rows), np.int32), 0
    for block, block_counts in in_order(read, map(table.lines, parts), size):
        features[at : at + len(block)], counts[at : at + len(block)] = block, block_counts
        at += len(block)
    return AlikeIndex(features, counts, bits)


def _features_of_lines(lines: bytes, boilerplate: Boilerplate, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(features, their counts) of rows in canonical JSON."""
    return features_of(loose_forms([e.user_text for e in decode_examples(lines)], boilerplate), bits)


class AlikeIndex:
    """A searchable index of texts. Stores only their features: a kilobyte per text."""

    def __init__(self, features: np.ndarray, counts: np.ndarray, bits: int) -> None:
        from finetune_pipeline.data.split import alike_kernels as kernels

        self._bits, n = bits, len(counts)
        self._texts, only = np.zeros(2**bits, np.int64), np.full(2**bits, -1, np.int32)
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
        """The most alike text (int64; -1: none at LEAST or above) of each of these forms, and how alike it is (float64); without
        forms, of each text of the index besides itself."""
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
    """Where numba has not compiled the kernels of both searches for alike texts yet, which takes 15 seconds of one core, a
    process of its own does it while the caller does something else."""
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
    """Have numba compile each kernel and keep it on disk, by searching three short texts."""
    texts = [f"three dozen {item} for the kitchen" for item in ("croissants", "croissant", "baguettes")]
    near_duplicate_clusters(texts, 0.8)
    features, counts = features_of(texts, 20)
    index = AlikeIndex(features, counts, 20)
    index.nearest()
    index.nearest(texts)


def _parts(rows: int) -> list[slice]:
    """Rows in chunks, which threads take one at a time."""
    return [slice(start, start + _ROWS_AT_ONCE) for start in range(0, max(1, rows), _ROWS_AT_ONCE)]


def features_of(forms: Sequence[str], bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(features (int32, [n, 96], ascending, each below 2 ** bits), how many each form has (int32, [n]))."""
    from finetune_pipeline.data.split import alike_kernels as kernels

    features = np.zeros((len(forms), _FEATURES), np.int32)
    counts = np.zeros(len(forms), np.int32)
    for start in range(0, len(forms), _TEXTS_AT_ONCE):
        part = slice(start, start + _TEXTS_AT_ONCE)
        kernels.features_of(*code_points(forms[part]), bits, features[part], counts[part])
    return features, counts
