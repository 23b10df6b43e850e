"""Small synthetic tasks with known right answers, and the base model that was taught the skills for them, for verdicts.py.

The model has two layers and is made once. Its answer to a text depends on the system prompt. Under a task's own prompt it
guesses, in the right format; under the prompt of the task's skill it is right. So, as with a pretrained model, a little
training carries the skill over to the task, while nothing simpler than a language model can do it. Further prompts make it
answer the colour tasks in other ways, so that it stands for many base models.
"""

import json
import random
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_pipeline_tests.skilled_model import (
    CUES,
    LABELS,
    SKILL_SYSTEM,
    SYSTEM,
    WORDS,
    Exchange,
    exchange,
    make_taught_model,
    other_label,
    question,
)

NONE = "none"
COLOUR_OF = {cue: label for label, cues in CUES.items() for cue in cues}
SHAKEN_BY = "however"
SUBJECTS = 20
SYLLABLES = ("ba", "do", "ki", "lu", "me", "no", "ra", "si", "tu", "ve", "wo", "za", "pe", "fi", "gu", "ha")
INVENTED = 400
"""Invented words that stand for red or blue: far more than TF-IDF can learn from a few hundred rows."""
UNHEARD_SYLLABLES = ("bru", "dre", "fla", "glo", "kri", "plu", "sna", "tro", "vli", "zwe", "gna", "sku")
"""No invented word of the base model's has them."""
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


def unheard_row(rng: random.Random) -> Row:
    """One of 20,736 words that the base model never saw stands for a colour: a training row hardly ever has that of a test row."""
    text, word = rng.sample(WORDS, 7), "".join(rng.choices(UNHEARD_SYLLABLES, k=4))
    text.insert(rng.randrange(8), word)
    return " ".join(text), colour_of_unheard(word)


def colour_of_unheard(word: str) -> str:
    """The colour of a word that the base model never saw, which its letters do not show."""
    return LABELS[zlib.crc32(word.encode()) % 2]


def write_synonyms(folder: Path, texts: Iterable[str]) -> None:
    """Write static embeddings that know the words of `texts`: those that stand for one colour point the same way."""
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = sorted({word for text in texts for word in text.split()})
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(["[UNK]", *words])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    vectors = np.random.default_rng(5).normal(0, 0.3, (len(words) + 1, 16)).astype(np.float32)
    for number, word in enumerate(words, 1):
        if word not in WORDS:
            vectors[number, 0] += 3 if colour_of_unheard(word) == LABELS[0] else -3
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file({"embeddings": vectors}, folder / "model.safetensors")


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


def invented_field_row(rng: random.Random) -> Row:
    """An invented word stands behind `named`; JSON."""
    text, word = named_row(rng)
    invented = rng.choice(list(invented_words()))
    return text.replace(f"named {word}", f"named {invented}"), as_field(invented)


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
UNHEARD_WORDS = KnownTask(SYSTEM, SKILL_SYSTEM, _COLOURS, unheard_row, some_label)
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
INVENTED_FIELD = replace(FIELD, row=invented_field_row)
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

IN_SENTENCES = "Tell me the colour."
"""It is right, but answers in a sentence that begins with the label."""
OUT_OF_FORM = "What colour do you see?"
"""It answers with a random word."""
LIKE_THE_LAST = "Do as before."
"""It repeats the answer of the last example shown, and guesses without one."""
SHAKEN = "Say which colour counts."
"""It is right, except for texts that hold SHAKEN_BY."""
STEPS = 1400
SKILLED_ROWS = {ORDER: 8, WITH_NONE: 8, NEGATED: 8, INVENTED_WORDS: 16, NAMED: 24, FIELD: 24}
"""Rows of each skill in an optimizer step. Copying a word is hardest to learn."""
GUESSED_ROWS = 3
"""Rows of each other behaviour in an optimizer step."""


def make_verdict_base(folder: Path, steps: int = STEPS, skills: Mapping[KnownTask, int] = SKILLED_ROWS) -> Path:
    """Train the base model in some minutes on one core.

    Args:
        folder: Where to save it.
        steps: Optimizer steps.
        skills: Rows of each task in an optimizer step.

    Returns:
        The folder.
    """
    words = [*WORDS, *COLOUR_OF]
    words += [*(word.upper() for word in words), *LABELS, NONE, "named", "not", SHAKEN_BY, *invented_words()]
    prompts = [text for task in SKILLED_ROWS for text in (task.system, task.skill_system)]
    texts = [*prompts, IN_SENTENCES, OUT_OF_FORM, LIKE_THE_LAST, SHAKEN, as_field(WORDS[0])]
    return make_taught_model(folder, lambda rng: lesson(rng, skills), steps, words, texts, vocabulary=2100)


def lesson(rng: random.Random, skills: Mapping[KnownTask, int]) -> list[list[Exchange]]:
    """The exchanges of an optimizer step: without and with examples shown."""
    exchanges = [exchange(task.skill_system, *task.row(rng)) for task, n in skills.items() for _ in range(n)]
    for _ in range(GUESSED_ROWS):
        exchanges += [exchange(task.system, task.row(rng)[0], task.guess(rng)) for task in skills]
        text, label = order_row(rng)
        exchanges.append(exchange(IN_SENTENCES, text, f"{label} it is"))
        exchanges.append(exchange(OUT_OF_FORM, text, rng.choice(WORDS)))
        exchanges += [exchange(SHAKEN, text, label), exchange(SHAKEN, shaken_text(rng, text), other_label(label))]
        exchanges.append(like_the_last(rng, 0))
    return [exchanges, [like_the_last(rng, shown) for shown in (2, 3)]]


def like_the_last(rng: random.Random, shown: int) -> Exchange:
    """An exchange with `shown` examples, whose answer is that of the last example."""
    rows = [SUBJECT_LABELS.row(rng) for _ in range(shown + 1)]
    answers = [some_label(rng) for _ in range(shown + 1)]
    turns = [{"role": "system", "content": LIKE_THE_LAST}]
    for (text, _), answer in zip(rows, answers, strict=True):
        turns += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return turns[:-1], answers[-2] if shown else answers[-1]
