"""Lists rows of different splits that share a long answer, or a passage of what is asked: one source text under several
templates, say. They are no leaks by themselves, and for people to look at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
_SENTENCES = re.compile(r"\n+|(?<=[.!?:])\s+")


LongText = tuple[str, int, int]
"""(answer or passage, hash of the text, row)."""


def long_texts(
    rows: np.ndarray, examples: Sequence[Example], boilerplate: Boilerplate, labels: bool
) -> Iterator[LongText]:
    """The long answers and passages of rows.

    Args:
        rows: Their numbers.
        examples: The rows.
        boilerplate: Left out of what is asked.
        labels: Whether the answers are labels, which rows share by their nature.
    """
    for row, example in zip(rows.tolist(), examples, strict=True):
        if not labels and len(example.answer) >= LONG and len(answer := loose_form(example.answer)) >= LONG:
            yield "answer", hash_text(answer), row
        if len(asked := example.user_text) >= LONG:
            for piece in {p for p in _SENTENCES.split(strip(asked, boilerplate)) if len(p) >= LONG}:
                if len(passage := loose_form(piece)) >= LONG:
                    yield "passage", hash_text(passage), row


def shared_texts(table: RowTable, split: np.ndarray, long: Sequence[LongText]) -> dict[str, Any]:
    """Which of these long texts stand in rows of several splits (int8, place in SPLITS; negative: none).

    Returns:
        answers, passages (how many such texts), shown (up to 20 of {kind, splits, ids}).
    """
    texts = sorted(text for text in long if split[text[2]] >= 0)
    ends = [0, *(i for i, (a, b) in enumerate(pairwise(texts), 1) if a[:2] != b[:2]), len(texts)]
    counts = {"answer": 0, "passage": 0}
    shown: list[dict[str, Any]] = []
    for first, end in pairwise(ends):
        rows = sorted({row for _, _, row in texts[first:end]})
        splits = sorted({int(split[row]) for row in rows})
        if 1 < len(rows) <= MOST_ROWS and len(splits) > 1:
            kind = texts[first][0]
            counts[kind] += 1
            ids = [f"{table.rows['id'][row]:016x}" for row in rows]
            shown.append({"kind": kind, "splits": [SPLITS[code] for code in splits], "ids": ids})
    return {"answers": counts["answer"], "passages": counts["passage"], "shown": shown[:SHOWN]}
