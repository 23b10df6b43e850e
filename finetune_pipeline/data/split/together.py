"""Keeps alike rows together: joins the units of rows that are each other's nearest, the strongest links first.

A unit never grows beyond a share of its label's rows and of all rows, so that a chain cannot swallow a class: the weakest
links are cut and counted. Nor are units joined that the ledger holds in two splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from finetune_pipeline.data.dedup.boilerplate import Boilerplate
from finetune_pipeline.data.dedup.cleaning import semantic_suspects
from finetune_pipeline.data.dedup.near_duplicates import loose_forms
from finetune_pipeline.data.dedup.row_table import KEPT, RowTable
from finetune_pipeline.data.examples import ORIGINS
from finetune_pipeline.data.split.alike import AlikeIndex
from finetune_pipeline.data.split.shared_texts import LongText, long_texts
from finetune_pipeline.spec import TaskSpec

OF_LABEL, OF_ALL, SMALLEST = 0.2, 0.02, 8
"""Links may join units up to so large a share of a label's rows and of all rows, and up to eight rows in any case."""
NOT_HUMAN = 0.55
"""Likeness from which a row by a person and one that is not share a split: else every fifth row from production, whose
nearest neighbour happens to be in the test, would be lost."""
_ROWS_AT_ONCE, _MANY = 20_000, 50_000
_HUMAN = ORIGINS.index("human")


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
        long: The long answers and passages of all kept rows, for :mod:`.shared_texts`.
    """

    links: Links
    index: AlikeIndex
    rows: np.ndarray
    suspects: list[tuple[int, int, float]]
    long: list[LongText]


def alike_rows(table: RowTable, boilerplate: Boilerplate, spec: TaskSpec) -> AlikeRows:
    """Look for alike rows among those kept, one of each prompt."""
    kept = np.flatnonzero(table.rows["state"] == KEPT)
    first = np.zeros(len(table.rows), bool)
    first[kept[np.unique(table.rows["prompt"][kept], return_index=True)[1]]] = True
    rows = np.flatnonzero(first)
    long: list[LongText] = []

    def forms() -> Iterator[list[str]]:
        for start in range(0, len(kept), _ROWS_AT_ONCE):
            block = kept[start : start + _ROWS_AT_ONCE]
            examples = table.fetch(block)
            long.extend(long_texts(block, examples, boilerplate, bool(spec.labels)))
            yield loose_forms([e.user_text for row, e in zip(block, examples, strict=True) if first[row]], boilerplate)

    index = AlikeIndex(forms(), len(rows) > _MANY)
    nearest = index.nearest()
    linked = np.flatnonzero(nearest.text >= 0)
    suspects = semantic_suspects(table, rows, spec)
    pairs = rows[np.stack([linked, nearest.text[linked]], 1)]
    pairs = np.concatenate([pairs, np.array([(i, j) for i, j, _ in suspects], np.int64).reshape(-1, 2)])
    strength = np.concatenate([nearest.strength[linked], np.array([s for _, _, s in suspects], np.float64)])
    pairs = np.sort(pairs, axis=1)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -strength))
    order = order[np.sort(np.unique(pairs[order], axis=0, return_index=True)[1])]
    left, right = pairs[order].T
    enough = (table.rows["origin"][left] == _HUMAN) == (table.rows["origin"][right] == _HUMAN)
    enough |= strength[order] >= NOT_HUMAN
    links = Links(left[enough], right[enough], strength[order][enough])
    return AlikeRows(links, index, rows, suspects, long)


@dataclass(frozen=True)
class Joined:
    """Units after joining.

    Attributes:
        unit: The new number of every old unit (int64), from 0.
        splits: For every new unit the bit mask of the splits the ledger holds its rows in.
        cut: Links not followed because a unit would have become too large.
        held: Links not followed because the ledger holds their rows in two splits.
    """

    unit: np.ndarray
    splits: np.ndarray
    cut: int
    held: int


def join(rows: np.ndarray, unit: np.ndarray, splits: np.ndarray, before: np.ndarray, links: Links) -> Joined:
    """Join units along links.

    Args:
        rows: ROW, [n].
        unit: The unit of every row (int64; -1: out).
        splits: For every unit the bit mask of the splits the ledger holds its rows in.
        before: The split the ledger gives every row (int8; -1: none).
        links: The links.
    """
    kept = (rows["state"] == KEPT) & (unit >= 0)
    size = np.bincount(unit[kept], minlength=len(splits)).tolist()
    label = rows["label"].astype(np.int64) + 1
    of_label = OF_LABEL * np.bincount(label[kept], minlength=1)
    most_of_row = np.maximum(SMALLEST, np.minimum(of_label[label], OF_ALL * kept.sum()))
    parent, mask = list(range(len(splits))), splits.tolist()

    def root(of: int) -> int:
        while parent[of] != of:
            parent[of] = parent[parent[of]]
            of = parent[of]
        return of

    cut = held = 0
    ends = np.stack([links.left, links.right], 1)
    ends = ends[(unit[ends] >= 0).all(1)]
    for left, right in ends.tolist():
        a, b = sorted((root(int(unit[left])), root(int(unit[right]))))
        if a == b:
            continue
        either = mask[a] | mask[b]
        too_large = size[a] + size[b] > min(most_of_row[left], most_of_row[right])
        if not too_large and not either & (either - 1):  # at most one split
            parent[b], size[a], mask[a] = a, size[a] + size[b], either
            continue
        cut += bool(too_large)
        held += bool(not too_large and mask[a] and mask[b])
        for row, other in ((left, right), (right, left)):  # a new unit goes where its neighbour is all the same
            if not mask[root(int(unit[row]))] and before[other] >= 0:
                mask[root(int(unit[row]))] = 1 << int(before[other])
    roots, number = np.unique(np.array([root(i) for i in range(len(splits))], np.int64), return_inverse=True)
    return Joined(number, np.array(mask, np.uint8)[roots], cut, held)
