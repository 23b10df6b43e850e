"""Answers with the nearest training answer, its slots filled from the new text.

A slot is a run of words of a training answer that stands in that row's own text too. The words before and after it in that text
say where the slot's value stands in a new one. This module needs nothing else, since `finetune export` copies it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_WORD = re.compile(r"\w+|[^\w\s]")
_MOST_WORDS = 8
"""Maximum words of a slot's value."""


@dataclass(frozen=True)
class Slot:
    """A part of an answer that is filled from the text.

    Attributes:
        start, end: Place in the training answer.
        before, after: The words beside its value in the training text, in lower case; empty at an end of the text.
        is_raised: The answer begins the value with a capital, and the text does not.
    """

    start: int
    end: int
    before: str
    after: str
    is_raised: bool


@dataclass
class SlotFiller:
    """The training answers, and their slots."""

    answers: Sequence[str]
    slots: Sequence[Sequence[Slot]]

    def fill(self, rows: Sequence[str], texts: Sequence[str]) -> list[str]:
        """Return the answer to every text, given the index of its nearest training row."""
        pairs = zip(map(int, rows), texts, strict=True)
        return [filled(self.answers[row], self.slots[row], text) for row, text in pairs]

    def save(self, folder: Path) -> None:
        """Write slots.json."""
        rows = [
            {"answer": answer, "slots": [asdict(slot) for slot in slots]}
            for answer, slots in zip(self.answers, self.slots, strict=True)
        ]
        (folder / "slots.json").write_text(json.dumps(rows, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> SlotFiller:
        """Read what :meth:`save` wrote."""
        rows = json.loads((folder / "slots.json").read_text("utf-8"))
        return cls([row["answer"] for row in rows], [[Slot(**slot) for slot in row["slots"]] for row in rows])


def find_slots(answer: str, text: str, template: Sequence[str]) -> list[Slot]:
    """Return the slots of an answer: the longest runs of words outside its template that stand in the text once."""
    known, words = set(template), [match.span() for match in _WORD.finditer(answer)]
    is_known = [answer[slice(*word)].lower() in known for word in words]
    in_text = [match.span() for match in _WORD.finditer(text)]
    slots: list[Slot] = []
    i = 0
    while i < len(words):
        limit = next((j for j in range(i, len(words)) if is_known[j]), len(words))
        for j in range(min(limit, i + _MOST_WORDS), i, -1):
            start, end = words[i][0], words[j - 1][1]
            places = list(re.finditer(rf"(?<!\w){re.escape(answer[start:end])}(?!\w)", text, re.IGNORECASE))
            if len(places) == 1:
                place = places[0]
                before = [text[slice(*word)].lower() for word in in_text if word[1] <= place.start()]
                after = [text[slice(*word)].lower() for word in in_text if word[0] >= place.end()]
                is_raised = answer[start].isupper() and not text[place.start()].isupper()
                slots.append(Slot(start, end, (before or [""])[-1], (after or [""])[0], is_raised))
                i = j - 1
                break
        i += 1
    return slots


def filled(answer: str, slots: Sequence[Slot], text: str) -> str:
    """Return the answer with the words of the text between each slot's neighbours; a slot whose place is not found is kept."""
    words = [match.span() for match in _WORD.finditer(text)]
    lower = [text[slice(*word)].lower() for word in words]
    for slot in sorted(slots, key=lambda slot: -slot.start):
        begins = [i + 1 for i, word in enumerate(lower) if word == slot.before] if slot.before else [0]
        for begin in begins:
            ends = [i for i in range(begin + 1, len(words) + 1) if (lower[i] if i < len(words) else "") == slot.after]
            if ends and begin < len(words) and ends[0] - begin <= _MOST_WORDS:
                value = text[words[begin][0] : words[ends[0] - 1][1]]
                value = value[:1].upper() + value[1:] if slot.is_raised else value
                answer = answer[: slot.start] + value + answer[slot.end :]
                break
    return answer
