"""Finds for every row the one most like it, so that edited copies share a split (see placement.py). Removing duplicates is
another, stricter relation (see data/dedup).

Texts are compared by the parts of their words (three letters), their words, and pairs of words near each other; so a typing
error, a word more or less and another order leave most of a text as it is. A feature counts by its rarity, log(1 + n / texts
with it), as in TF-IDF. Likeness is 0.3 times containment (what both share, over the lighter of the two: a greeting hides
nothing) plus 0.7 times the Dice coefficient. Only a text's nearest neighbour is linked to it: chains of such links stay short,
and an edited copy is nearly always nearer to its original than to anything else (benchmarks/edited_copies.py).

The cost is bounded: of a text 96 features are kept (those with the smallest hashes), up to 3,000 texts that share its 32
rarest are looked at, and 32 of them compared: the best by what is shared, and those that share the rarest features (so that
many rows with one long greeting do not hide each other's originals). Of these, texts with less than a tenth of the weight in
common are passed over.

Rows of different splits may also share a long answer, or a passage of what is asked: one source text under several templates,
say. They are no leaks by themselves, and are listed for people to look at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from finetune_pipeline.data.dedup.boilerplate import SENTENCES, Boilerplate, stripper
from finetune_pipeline.data.dedup.cleaning import semantic_suspects
from finetune_pipeline.data.dedup.near_duplicates import code_points
from finetune_pipeline.data.dedup.row_table import KEPT, RowTable, hash_text
from finetune_pipeline.data.dedup.text_similarity import exact_form, loose_form, unpunctuated
from finetune_pipeline.data.examples import ORIGINS, Example, decode_examples
from finetune_pipeline.data.split.ledger import SPLITS
from finetune_pipeline.data.workers import available_cores, in_order
from finetune_pipeline.spec import TaskSpec

LEAST = 0.3
"""Likeness from which the nearest text shares a split. One in twenty copies with three typing errors lies below 0.4."""
NOT_HUMAN = 0.55
"""Likeness from which a row by a person and one that is not share a split: else every fifth row from production, whose
nearest neighbour happens to be in the test, would be lost."""
_FEATURES, _RAREST = 96, 32
_MANY = 50_000
"""Texts from which features have 22 bits in place of 20."""
_TEXTS_AT_ONCE, _ROWS_AT_ONCE = 2048, 20_000
_HUMAN = ORIGINS.index("human")
LONG = 60
"""Characters from which a shared answer or passage (a line or sentence) is no coincidence."""
MOST_ROWS = 20
"""A text that more rows share is a phrase of the task."""
SHOWN = 20


LONG_TEXT = np.dtype([("kind", "<u1"), ("text", "<u8"), ("row", "<i8")])
"""A long text of a row: place in KINDS, hash of the text, number of the row."""
KINDS = ("answer", "passage")
_Block = tuple[np.ndarray, np.ndarray, bytes]
"""Numbers of rows, which of them are the first with their prompt, and their lines."""


@dataclass(frozen=True)
class Links:
    """Pairs of alike rows, the strongest first: row numbers (int64, [m]) and likeness (float64, [m])."""

    left: np.ndarray
    right: np.ndarray
    strength: np.ndarray


@dataclass(frozen=True)
class AlikeRows:
    """Which kept rows are alike.

    Attributes:
        links: Between each row and the one most like it, and between `suspects`.
        index: Their texts.
        rows: For each text of the index one row.
        suspects: (row, other row, cosine similarity) by `data.semantic`, where it is set.
        long: The long answers and passages (LONG_TEXT) of all kept rows.
    """

    links: Links
    index: AlikeIndex
    rows: np.ndarray
    suspects: list[tuple[int, int, float]]
    long: np.ndarray


def alike_rows(table: RowTable, boilerplate: Boilerplate, spec: TaskSpec) -> AlikeRows:
    """Look for alike rows among those kept, one of each prompt."""
    kept = np.flatnonzero(table.rows["state"] == KEPT)
    first = np.zeros(len(table.rows), bool)
    first[kept[np.unique(table.rows["prompt"][kept], return_index=True)[1]]] = True
    rows = np.flatnonzero(first)
    index, long = _read(table, kept, first, boilerplate, bool(spec.labels))
    nearest = index.nearest()
    linked = np.flatnonzero(nearest.text >= 0)
    suspects = semantic_suspects(table, rows, spec)
    pairs = rows[np.stack([linked, nearest.text[linked]], 1)]
    pairs = np.concatenate([pairs, np.array([(i, j) for i, j, _ in suspects], np.int64).reshape(-1, 2)])
    strength = np.concatenate([nearest.strength[linked], np.array([s for _, _, s in suspects], np.float64)])
    left, right = np.sort(pairs, axis=1).T
    order = np.lexsort((right, left, -strength))
    order = order[np.sort(np.unique(left[order] << 32 | right[order], return_index=True)[1])]
    left, right = left[order], right[order]
    enough = (table.rows["origin"][left] == _HUMAN) == (table.rows["origin"][right] == _HUMAN)
    enough |= strength[order] >= NOT_HUMAN
    links = Links(left[enough], right[enough], strength[order][enough])
    return AlikeRows(links, index, rows, suspects, long)


def _read(
    table: RowTable, kept: np.ndarray, first: np.ndarray, boilerplate: Boilerplate, labels: bool
) -> tuple[AlikeIndex, np.ndarray]:
    """(the index of the texts of the rows that are `first`, the long texts of all kept rows)."""
    many = int(first.sum())
    bits = 22 if many > _MANY else 20
    features, counts = np.zeros((many, _FEATURES), np.int32), np.zeros(many, np.int32)
    long, at = [np.zeros(0, LONG_TEXT)], 0

    def blocks() -> Iterator[_Block]:
        for start in range(0, len(kept), _ROWS_AT_ONCE):
            rows = kept[start : start + _ROWS_AT_ONCE]
            yield rows, first[rows], table.lines(rows)

    read = partial(_read_block, boilerplate=boilerplate, labels=labels, bits=bits)
    size = int((table.rows["end"][kept] - table.rows["start"][kept]).sum())
    for some, of_some, texts in in_order(read, blocks(), size):
        features[at : at + len(some)], counts[at : at + len(some)] = some, of_some
        at += len(some)
        long.append(texts)
    return AlikeIndex(features, counts, bits), np.concatenate(long)


def _read_block(
    block: _Block, boilerplate: Boilerplate, labels: bool, bits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(features and their counts for the rows that are first, long texts of all rows)."""
    rows, first, lines = block
    examples = decode_examples(lines, "clean examples")
    forms, long = _forms_and_long_texts(rows, examples, boilerplate, labels)
    return *features_of([forms[i] for i in np.flatnonzero(first)], bits), long


@dataclass(frozen=True)
class Nearest:
    """Of every query its most alike text (int64; -1: none at LEAST or above) and how alike it is (float64)."""

    text: np.ndarray
    strength: np.ndarray


class AlikeIndex:
    """Texts ready to be looked up. They are not kept, only their features: a kilobyte of each."""

    def __init__(self, features: np.ndarray, counts: np.ndarray, bits: int) -> None:
        """The texts as :func:`features_of` gives them."""
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

    def nearest(self, forms: Sequence[str] | None = None) -> Nearest:
        """The most alike text of each of these forms; without forms, of each text of the index besides itself."""
        from finetune_pipeline.data.split import alike_kernels as kernels

        if forms is None:
            features, counts, rare = self._index.features, self._index.counts, self._rare
        else:
            features, counts = features_of(forms, self._bits)
            rare = np.empty((len(forms), _RAREST), np.int32)
            kernels.rarest(features, counts, self._texts, 1, rare)

        def look_up(part: slice) -> tuple[np.ndarray, np.ndarray]:
            own = part.start if forms is None else -1
            texts, strengths = kernels.nearest(features[part], counts[part], rare[part], own, self._index)
            return texts, strengths

        with ThreadPoolExecutor(available_cores()) as pool:
            parts = list(pool.map(look_up, _parts(len(counts))))
        best, strength = (np.concatenate(of) for of in zip(*parts, strict=True))
        best[strength < LEAST] = -1
        return Nearest(best, strength)


def _parts(rows: int) -> list[slice]:
    """Rows in parts, of which threads take one at a time."""
    return [slice(start, start + _ROWS_AT_ONCE) for start in range(0, max(1, rows), _ROWS_AT_ONCE)]


def features_of(forms: Sequence[str], bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(features (int32, [n, 96], ascending, each below 2 ** bits), how many each form has (int32, [n]))."""
    from finetune_pipeline.data.split import alike_kernels as kernels

    kept = np.zeros((len(forms), _FEATURES), np.int32)
    counts = np.zeros(len(forms), np.int32)
    for start in range(0, len(forms), _TEXTS_AT_ONCE):
        part = slice(start, start + _TEXTS_AT_ONCE)
        kernels.features_of(*code_points(forms[part]), bits, kept[part], counts[part])
    return kept, counts


def _forms_and_long_texts(
    rows: np.ndarray, examples: Sequence[Example], boilerplate: Boilerplate, labels: bool
) -> tuple[list[str], np.ndarray]:
    """(the loose forms of what is asked, the long answers and passages (LONG_TEXT)) of rows.

    Args:
        rows: Their numbers.
        examples: The rows.
        boilerplate: Left out of what is asked.
        labels: Whether the answers are labels, which rows share by their nature.
    """
    texts, forms = [], []
    take_off = stripper(boilerplate)
    for row, example in zip(rows.tolist(), examples, strict=True):
        if not labels and len(example.answer) >= LONG and len(answer := loose_form(example.answer)) >= LONG:
            texts.append((0, hash_text(answer), row))
        asked = take_off(example.user_text)
        passages = [(len(piece), unpunctuated(exact_form(piece))) for piece in SENTENCES.split(asked)]
        forms.append(" ".join(form for _, form in passages if form) or exact_form(asked))
        texts += [(1, hash_text(form), row) for size, form in passages if min(size, len(form)) >= LONG]
    return forms, np.array(texts, LONG_TEXT)


def shared_texts(table: RowTable, split: np.ndarray, long: np.ndarray) -> dict[str, Any]:
    """Which of these long texts (LONG_TEXT) stand in rows of several splits (int8, place in SPLITS; negative: none).

    Returns:
        answers, passages (how many such texts), shown (up to 20 of {kind, splits, ids}).
    """
    long = long[split[long["row"]] >= 0]
    long = long[np.lexsort([long[name] for name in ("row", "text", "kind")])]
    new = np.ones(len(long), bool)
    new[1:] = (long["kind"][1:] != long["kind"][:-1]) | (long["text"][1:] != long["text"][:-1])
    once = new.copy()  # a row may say a text twice
    once[1:] |= long["row"][1:] != long["row"][:-1]
    long, new = long[once], new[once]
    starts, of = np.flatnonzero(new), split[long["row"]]
    sizes = np.diff(starts, append=len(long))
    several = np.maximum.reduceat(of, starts) > np.minimum.reduceat(of, starts)
    shared = np.flatnonzero(several & (sizes <= MOST_ROWS))
    counts = np.bincount(long["kind"][starts[shared]], minlength=len(KINDS))
    shown = []
    for first, size in zip(starts[shared[:SHOWN]].tolist(), sizes[shared[:SHOWN]].tolist(), strict=True):
        rows = long["row"][first : first + size]
        splits = [SPLITS[code] for code in np.unique(split[rows])]
        ids = [f"{number:016x}" for number in table.rows["id"][rows].tolist()]
        shown.append({"kind": KINDS[long["kind"][first]], "splits": splits, "ids": ids})
    return {"answers": int(counts[0]), "passages": int(counts[1]), "shown": shown}
