"""Lists rows of different splits that share a long answer, or a passage of what is asked: one source text under several
templates, say. They are no leaks by themselves, and for people to look at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from finetune_pipeline.data.dedup.boilerplate import Boilerplate, strip
from finetune_pipeline.data.dedup.row_table import RowTable, hash_text
from finetune_pipeline.data.dedup.text_similarity import loose_form
from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.split.ledger import SPLITS

LONG = 60
"""Characters from which a shared answer or passage (a line or sentence) is no coincidence."""
MOST_ROWS = 20
"""A text that more rows share is a phrase of the task."""
SHOWN = 20
_ROWS_AT_ONCE = 20_000
_SENTENCES = re.compile(r"\n+|(?<=[.!?:])\s+")


def shared_texts(table: RowTable, split: np.ndarray, boilerplate: Boilerplate, labels: bool) -> dict[str, Any]:
    """Look for them among the rows that have a split.

    Args:
        table: The rows.
        split: Their splits (int8, place in SPLITS; negative: none).
        boilerplate: Left out of what is asked.
        labels: Whether the answers are labels, which rows share by their nature.

    Returns:
        answers, passages (how many texts stand in rows of several splits), shown (up to 20 of {kind, splits, ids}).
    """
    there = np.flatnonzero(split >= 0)
    texts: list[tuple[str, int, int]] = []
    for start in range(0, len(there), _ROWS_AT_ONCE):
        block = there[start : start + _ROWS_AT_ONCE]
        for row, example in zip(block.tolist(), table.fetch(block), strict=True):
            texts += [(kind, name, row) for kind, name in set(_long_texts(example, boilerplate, labels))]
    texts.sort()
    ends = [0, *(i for i, (a, b) in enumerate(pairwise(texts), 1) if a[:2] != b[:2]), len(texts)]
    counts = {"answer": 0, "passage": 0}
    shown: list[dict[str, Any]] = []
    for first, end in pairwise(ends):
        rows = [row for _, _, row in texts[first:end]]
        splits = sorted({int(split[row]) for row in rows})
        if 1 < len(rows) <= MOST_ROWS and len(splits) > 1:
            kind = texts[first][0]
            counts[kind] += 1
            ids = [f"{table.rows['id'][row]:016x}" for row in rows]
            shown.append({"kind": kind, "splits": [SPLITS[code] for code in splits], "ids": ids})
    return {"answers": counts["answer"], "passages": counts["passage"], "shown": shown[:SHOWN]}


def _long_texts(example: Example, boilerplate: Boilerplate, labels: bool) -> Iterator[tuple[str, int]]:
    """(kind, hash) of a row's long answer and passages."""
    if not labels and len(answer := loose_form(example.answer)) >= LONG:
        yield "answer", hash_text(answer)
    for piece in _SENTENCES.split(strip(example.user_text, boilerplate)):
        if len(piece) >= LONG and len(passage := loose_form(piece)) >= LONG:
            yield "passage", hash_text(passage)
