"""Small synthetic tasks with known right answers, for verdicts.py.

Each has two system prompts. Under its own prompt the base model (verdict_base.py) guesses in the right format; under the
other it has the skill. So, as with a pretrained model, a little training carries the skill over to the task, while nothing
simpler than a language model can do it.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune_pipeline_tests.skilled_model import CUES, LABELS, SKILL_SYSTEM, SYSTEM, WORDS, other_label, question

NONE = "none"
COLOUR_OF = {cue: label for label, cues in CUES.items() for cue in cues}
SHAKEN_BY = "however"
SUBJECTS = 20
SYLLABLES = ("ba", "do", "ki", "lu", "me", "no", "ra", "si", "tu", "ve", "wo", "za", "pe", "fi", "gu", "ha")
INVENTED = 400
"""Invented words that stand for red or blue: far more than TF-IDF can learn from a few hundred rows."""
Row = tuple[str, str]
"""The text of the user, and the right answer."""


@dataclass(frozen=True, eq=False)
class KnownTask:
    """A task whose right answers are known.

    Attributes:
        system: System prompt of the task.
        skill_system: System prompt under which the base model can do it.
        output: As in task.yaml.
        row: Draws a text and its right answer.
        guess: Draws an answer in the right format, independent of the text.
    """

    system: str
    skill_system: str
    output: dict[str, Any]
    row: Callable[[random.Random], Row]
    guess: Callable[[random.Random], str]

    def raw_rows(self, seed: int, n: int) -> list[dict[str, Any]]:
        """Draw `n` rows in a raw format."""
        rng = random.Random(seed)
        return [self.raw(*self.row(rng)) for _ in range(n)]

    def raw(self, text: str, answer: str) -> dict[str, Any]:
        """The row in a raw format."""
        text_key, answer_key = ("text", "label") if self.output["kind"] == "labels" else ("prompt", "completion")
        return {text_key: text, answer_key: answer}


def invented_words() -> dict[str, str]:
    """The invented words, each with the colour it stands for."""
    rng = random.Random(11)
    words = rng.sample([a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES if a != b], INVENTED)
    return {word: LABELS[i % 2] for i, word in enumerate(words)}


def some_label(rng: random.Random) -> str:
    return rng.choice(LABELS)


def order_row(rng: random.Random) -> Row:
    """Both colours are named, and the last one counts."""
    label = some_label(rng)
    return question(rng, label), label


def negated_row(rng: random.Random) -> Row:
    """Both colours are named in any order; `not` stands one or two words before one of them, and the other one counts. So no
    pair of neighbouring words decides."""
    label = some_label(rng)
    negated = ["not", *rng.sample(WORDS, rng.randrange(1, 3)), rng.choice(CUES[other_label(label)])]
    parts = [negated, [rng.choice(CUES[label])]]
    rng.shuffle(parts)
    filling = iter(rng.sample(WORDS, 6))
    words = [next(filling), *parts[0], next(filling), next(filling), *parts[1], *filling]
    return " ".join(words), label


def invented_row(rng: random.Random) -> Row:
    """One word is invented, and stands for a colour."""
    word, label = rng.choice(list(invented_words().items()))
    text = rng.sample(WORDS, 7)
    text.insert(rng.randrange(8), word)
    return " ".join(text), label


def named_row(rng: random.Random) -> Row:
    """The word behind `named` is the answer."""
    text = rng.sample(WORDS, 8)
    at = rng.randrange(7)
    return " ".join([*text[:at], "named", *text[at:]]), text[at]


def as_field(word: str) -> str:
    """The word as a JSON object."""
    return json.dumps({"name": word})


def field_row(rng: random.Random) -> Row:
    """The word behind `named`, in JSON."""
    text, word = named_row(rng)
    return text, as_field(word)


def one_word_row(rng: random.Random) -> Row:
    """One colour is named: one word decides."""
    label = some_label(rng)
    text = rng.sample(WORDS, 8)
    text.insert(rng.randrange(9), rng.choice(CUES[label]))
    return " ".join(text), label


def none_row(rng: random.Random) -> Row:
    """No colour is named in half of the rows, else as in :func:`order_row`."""
    return order_row(rng) if rng.random() < 0.5 else (" ".join(rng.sample(WORDS, 9)), NONE)


def shaken_text(rng: random.Random, text: str) -> str:
    """Insert SHAKEN_BY anywhere in the text; the right answer stays the same."""
    words = text.split()
    words.insert(rng.randrange(len(words) + 1), SHAKEN_BY)
    return " ".join(words)


def family_row(rng: random.Random, families: int, answers: Sequence[str]) -> Row:
    """A text about one of `families` subjects, each with its own answer. Two invented words name the subject, so the most
    similar rows are about the same one."""
    words, subject = list(invented_words()), rng.randrange(families)
    text = [*words[2 * subject : 2 * subject + 2], *rng.sample(WORDS, 6)]
    rng.shuffle(text)
    return " ".join(text), answers[subject % len(answers)]


def first_words_row(rng: random.Random) -> Row:
    """The first eight of ten words are the answer."""
    words = rng.sample(WORDS, 10)
    return " ".join(words), " ".join(words[:8])


def labels_output(labels: list[str]) -> dict[str, Any]:
    return {"kind": "labels", "labels": labels}


_COLOURS = labels_output(LABELS)
_NAME_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
}
ORDER = KnownTask(SYSTEM, SKILL_SYSTEM, _COLOURS, order_row, some_label)
ONE_WORD = KnownTask(SYSTEM, SKILL_SYSTEM, _COLOURS, one_word_row, some_label)
NEGATED = KnownTask("Which colour is meant?", "Say the other one.", _COLOURS, negated_row, some_label)
INVENTED_WORDS = KnownTask("Which colour is it?", "Say what it stands for.", _COLOURS, invented_row, some_label)
NAMED = KnownTask(
    "Give the name.", "Say the word.", {"kind": "text", "max_new_tokens": 8}, named_row, lambda rng: rng.choice(WORDS)
)
FIELD = KnownTask(
    "Give the name in JSON.",
    "Say the word in JSON.",
    {"kind": "json", "json_schema": _NAME_SCHEMA, "max_new_tokens": 24},
    field_row,
    lambda rng: as_field(rng.choice(WORDS)),
)
WITH_NONE = KnownTask(
    "Answer red, blue or none.",
    "Say the last one or none.",
    labels_output([*LABELS, NONE]),
    none_row,
    lambda rng: rng.choice([*LABELS, NONE]),
)
SUBJECT_LABELS = KnownTask(SYSTEM, SKILL_SYSTEM, _COLOURS, lambda rng: family_row(rng, SUBJECTS, LABELS), some_label)
SUBJECT_WORDS = replace(NAMED, row=lambda rng: family_row(rng, SUBJECTS, WORDS))
FIRST_WORDS = replace(NAMED, row=first_words_row)
EIGHT_SUBJECTS = replace(
    SUBJECT_LABELS,
    output=labels_output(WORDS[:8]),
    row=lambda rng: family_row(rng, 8, WORDS[:8]),
    guess=lambda rng: rng.choice(WORDS[:8]),
)
