"""How many edited copies the search for alike rows keeps with their original: measured at every run, by kind of edit.

Rows of validation and test, drawn over all labels and lengths, are edited and looked up as new rows would be. A copy is found
when its nearest row is in its original's unit: there it would be put.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from finetune_pipeline.data.dedup.boilerplate import Boilerplate
from finetune_pipeline.data.dedup.near_duplicates import loose_forms
from finetune_pipeline.data.dedup.row_table import RowTable
from finetune_pipeline.data.split.together import AlikeRows

EACH = 40
"""Copies of each kind."""
_OPENINGS = ("Hello,", "Hi team,", "Good day,", "Dear all, I hope you are well.", "Hey there,")
_CLOSINGS = ("Thank you!", "Thanks a lot in advance.", "Kind regards", "Many thanks for your help.", "Cheers")
Edit = Callable[[str, random.Random, Sequence[str]], str]


def _one_typo(text: str, dice: random.Random, words: Sequence[str]) -> str:
    letters = [i for i, sign in enumerate(text) if sign.isalpha()]
    if not letters:
        return text
    at, other = dice.choice(letters), dice.choice(string.ascii_lowercase)
    return text[:at] + dice.choice(("", other, other + text[at], 2 * text[at])) + text[at + 1 :]


def _three_typos(text: str, dice: random.Random, words: Sequence[str]) -> str:
    for _ in range(3):
        text = _one_typo(text, dice, words)
    return text


def _courtesies(text: str, dice: random.Random, words: Sequence[str]) -> str:
    return f"{dice.choice(_OPENINGS)} {text} {dice.choice(_CLOSINGS)}"


def _word_dropped(text: str, dice: random.Random, words: Sequence[str]) -> str:
    own = text.split()
    if len(own) > 2:
        own.pop(dice.randrange(len(own)))
    return " ".join(own)


def _words_swapped(text: str, dice: random.Random, words: Sequence[str]) -> str:
    own = text.split()
    if len(own) > 1:
        i, j = dice.sample(range(len(own)), 2)
        own[i], own[j] = own[j], own[i]
    return " ".join(own)


def _quarter_replaced(text: str, dice: random.Random, words: Sequence[str]) -> str:
    own = text.split()
    for at in dice.sample(range(len(own)), round(len(own) / 4)):
        own[at] = dice.choice(words)
    return " ".join(own)


EDITS: dict[str, Edit] = {
    "one typo": _one_typo,
    "three typos": _three_typos,
    "greeting and thanks": _courtesies,
    "a word dropped": _word_dropped,
    "two words swapped": _words_swapped,
    "a quarter of the words replaced": _quarter_replaced,
}


def recall_by_edit(
    table: RowTable, unit: np.ndarray, guarded: np.ndarray, alike: AlikeRows, boilerplate: Boilerplate
) -> dict[str, dict[str, Any]]:
    """Plant edited copies and look for them.

    Args:
        table: The rows.
        unit: The name of every row's unit.
        guarded: The rows (int64) of validation and test.
        alike: The search.
        boilerplate: Left out of texts.

    Returns:
        For every kind tested, found, and recall with its 95% interval (Wilson); tested is 0, and there is no recall,
        where no row could be edited so.
    """
    from scipy.stats import binomtest

    rows = table.rows[guarded]
    order = guarded[np.lexsort((rows["id"], rows["end"] - rows["start"], rows["label"]))]
    recall: dict[str, dict[str, Any]] = {}
    for number, (kind, edit) in enumerate(EDITS.items()):
        dice = random.Random(number)  # noqa: S311
        step = len(order) / min(EACH, len(order))
        chosen = order[(np.arange(min(EACH, len(order))) * step + dice.random() * step).astype(np.int64)]
        texts = [e.user_text for e in table.fetch(chosen)]
        words = sorted({word for text in texts for word in text.split()})
        copies = [edit(text, dice, words) for text in texts]
        tested = np.array([copy.split() != text.split() for copy, text in zip(copies, texts, strict=True)])
        if not tested.any():
            recall[kind] = {"tested": 0}
            continue
        nearest = alike.index.nearest(loose_forms(copies, boilerplate)).text
        same = unit[alike.rows[nearest]] == unit[chosen]
        test = binomtest(int((tested & (nearest >= 0) & same).sum()), int(tested.sum()))
        interval = test.proportion_ci(method="wilson")
        recall[kind] = {
            "tested": test.n,
            "found": test.k,
            "recall": round(test.k / test.n, 4),
            "interval": [round(interval.low, 4), round(interval.high, 4)],
        }
    return recall
