"""The base model of verdicts.py: two layers that were taught some skills, and a behaviour for each system prompt.

Its answer to a text depends on the system prompt. Under a task's own prompt it guesses, in the right format; under the prompt
of the task's skill it is right. The prompts below make it answer the colour tasks in further ways. So one model, made once,
stands for many base models.
"""

import random
from collections.abc import Mapping
from pathlib import Path

from benchmarks.verdict_tasks import (
    COLOUR_OF,
    FIELD,
    INVENTED_WORDS,
    NAMED,
    NEGATED,
    NONE,
    ORDER,
    SHAKEN_BY,
    SUBJECT_LABELS,
    WITH_NONE,
    KnownTask,
    as_field,
    invented_words,
    order_row,
    shaken_text,
    some_label,
)
from finetune_pipeline_tests.skilled_model import LABELS, WORDS, Exchange, exchange, make_taught_model, other_label

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
