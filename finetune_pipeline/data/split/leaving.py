"""Rows that leave training or validation, since a changed setting joins them with rows the ledger holds in another split.

The ledger keeps every row where it was. When a looser relation (another threshold, group or scrubbing rule; removal by
`data.semantic`) makes rows of two splits one, the row of the split that matters less leaves: train before validation, and
never the test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from finetune_pipeline.data.dedup.near_duplicates import loose_forms
from finetune_pipeline.data.dedup.text_similarity import shingle_sets, similar_pairs
from finetune_pipeline.data.split.leakage import SMALL, Leak, Search
from finetune_pipeline.data.split.ledger import SPLITS
from finetune_pipeline.data.split.placement import LEFT

RESTART = (
    "nothing to do where it is few rows; else set split.restart: true, which splits all rows anew: a new test, so that "
    "earlier scores and the champion's can no longer be compared"
)


def leave_training(search: Search, placed: np.ndarray, leaks: Mapping[str, Sequence[Leak]]) -> np.ndarray:
    """Take the rows out (split LEFT in `placed`) and say which (bool, [n]).

    Only rows of one unit leave, which the ledger has torn, and suspects that `data.semantic.remove` calls duplicates. A
    leak between units is one the clustering missed: it stays, and the certificate fails.
    """
    split, unit = search.split, search.unit
    higher = np.array(split)  # the most protected split a row is like a row of
    there = split >= 0
    for name in ("prompt", "group"):
        some = np.flatnonzero(there & ((search.table.rows[name] != 0) | (name == "prompt")))
        _, number = np.unique(search.table.rows[name][some], return_inverse=True)
        highest = np.full(len(some), -1, np.int8)
        np.maximum.at(highest, number, split[some])
        higher[some] = np.maximum(higher[some], highest[number])
    pairs = [(i, j) for i, j, _ in leaks["near"] if unit[i] == unit[j]] + _compared(search)
    if search.spec.data.semantic is not None and search.spec.data.semantic.remove:
        pairs += [(i, j) for i, j, _ in leaks["semantic"]]
    for i, j in pairs:
        higher[i], higher[j] = max(higher[i], split[j]), max(higher[j], split[i])
    left: np.ndarray = there & (higher > split)
    placed["bridged"][left] = (1 << split[left]) | (1 << higher[left])
    placed["split"][left] = LEFT
    return left


def _compared(search: Search) -> list[tuple[int, int]]:
    """Near pairs across splits inside torn units, all pairs compared; of a large set the search's pairs must do."""
    there = np.flatnonzero(search.split >= 0)
    if len(there) > SMALL:
        return []
    _, number = np.unique(search.unit[there], return_inverse=True)
    splits = np.zeros(len(there), np.uint8)
    np.bitwise_or.at(splits, number, (1 << search.split[there]).astype(np.uint8))
    torn = there[(splits & (splits - 1))[number] > 0]
    forms = loose_forms([e.user_text for e in search.table.fetch(torn)], search.boilerplate)
    sets = shingle_sets(forms)
    pairs = []
    for code in range(len(SPLITS) - 1):
        low, high = (np.flatnonzero(which) for which in (search.split[torn] == code, search.split[torn] > code))
        near = similar_pairs([sets[i] for i in low], [sets[i] for i in high], search.spec.data.near_duplicate_threshold)
        for i, j, _ in near:
            a, b = int(torn[low[i]]), int(torn[high[j]])
            if search.unit[a] == search.unit[b]:
                pairs.append((a, b))
    return pairs


def without(leaks: Mapping[str, Sequence[Leak]], left: np.ndarray) -> dict[str, list[Leak]]:
    """The leaks none of whose rows has left."""
    return {kind: [pair for pair in pairs if not (left[pair[0]] or left[pair[1]])] for kind, pairs in leaks.items()}
