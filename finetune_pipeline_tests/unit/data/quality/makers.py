"""Specs and examples the tests of this folder share."""

import random
from typing import Any

from finetune_pipeline.data.examples import Example, example_id
from finetune_pipeline.spec import TaskSpec

LABELS = ["parcel", "invoice", "password", "holiday"]
_WORDS = {
    "parcel": "parcel courier delivery tracking late address van depot box damaged",
    "invoice": "invoice charge refund vat amount bank payment total overdue receipt",
    "password": "password login reset account locked code phone browser session expired",
    "holiday": "holiday leave calendar vacation days sick absence approve manager team",
}
_COMMON = "please can you tell me about the my our this again today since yesterday still we need help with it".split()

FILLER = "walked into the room and then after a while very slowly said it was late today because of the rain".split()
NAMES = "tom ann bob eve sam kim".split()


def make_spec(labels: list[str] | None = None, training: dict[str, Any] | None = None, **data: Any) -> TaskSpec:
    """A task with these labels, or with free text; keyword arguments go into its `data` section."""
    output: dict[str, Any] = {"kind": "labels", "labels": labels} if labels else {"kind": "text"}
    said = {"name": "post", "description": "d", "system_prompt": "s"}
    return TaskSpec.model_validate({**said, "output": output, "data": data, "training": training or {}})


def make(user: str, answer: str, line: int = 1, **more: Any) -> Example:
    """One example with a system, a user and an assistant turn."""
    messages = [{"role": r, "content": c} for r, c in (("system", "s"), ("user", user), ("assistant", answer))]
    fields = {"source": {"file": "raw/a.jsonl", "line": line}, **more}
    return Example(id=example_id(messages), messages=messages, **fields)


def requests(count: int, seed: int = 0) -> list[Example]:
    """Labelled requests made of words of their topic and common ones, labels in turn."""
    rnd = random.Random(seed)
    rows = []
    for i in range(count):
        label = LABELS[i % len(LABELS)]
        words = rnd.sample(_WORDS[label].split(), 3) + rnd.choices(_COMMON, k=rnd.randint(4, 9))
        rnd.shuffle(words)
        rows.append(make(f"{' '.join(words)} {i}", label, i + 1, label=label))
    return rows


def in_order(count: int) -> list[Example]:
    """Two names in a sentence; the label says whether the one that comes first in the alphabet comes first in it."""
    draw, rows = random.Random(0), []
    for i in range(count):
        first, second = draw.sample(NAMES, 2)
        words = draw.choices(FILLER, k=8)
        at = sorted(draw.sample(range(9), 2))
        words.insert(at[0], first)
        words.insert(at[1] + 1, second)
        label = "yes" if first < second else "no"
        rows.append(make(f"{' '.join(words)} {i}", label, i + 1, label=label))
    return rows


def dealt(examples: list[Example], seed: int = 0) -> dict[str, str]:
    """A split for every example: 70% train, 10% validation, 20% test."""
    rnd = random.Random(seed)
    return {e.id: rnd.choices(("train", "validation", "test"), (7, 1, 2))[0] for e in examples}
