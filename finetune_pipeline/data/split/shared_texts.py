"""Lists rows of different splits that share a long answer, or a passage of what is asked: one source text under several
templates, say. They are no leaks by themselves, and for people to look at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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


LONG_TEXT = np.dtype([("kind", "<u1"), ("text", "<u8"), ("row", "<i8")])
"""A long text of a row: place in KINDS, hash of the text, number of the row."""
KINDS = ("answer", "passage")


def long_texts(rows: np.ndarray, examples: Sequence[Example], boilerplate: Boilerplate, labels: bool) -> np.ndarray:
    """The long answers and passages (LONG_TEXT) of rows.

    Args:
        rows: Their numbers.
        examples: The rows.
        boilerplate: Left out of what is asked.
        labels: Whether the answers are labels, which rows share by their nature.
    """
    texts = []
    for row, example in zip(rows.tolist(), examples, strict=True):
        if not labels and len(example.answer) >= LONG and len(answer := loose_form(example.answer)) >= LONG:
            texts.append((0, hash_text(answer), row))
        if len(asked := example.user_text) >= LONG:
            for piece in {p for p in _SENTENCES.split(strip(asked, boilerplate)) if len(p) >= LONG}:
                if len(passage := loose_form(piece)) >= LONG:
                    texts.append((1, hash_text(passage), row))
    return np.array(texts, LONG_TEXT)


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
