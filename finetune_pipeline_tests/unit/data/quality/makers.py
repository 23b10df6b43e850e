"""Specs and examples for tests of data quality."""

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
    """A spec with these labels (default: text output). data: Keys of its `data` section."""
    output: dict[str, Any] = {"kind": "labels", "labels": labels} if labels else {"kind": "text"}
    required = {"name": "post", "description": "d", "system_prompt": "s"}
    return TaskSpec.model_validate({**required, "output": output, "data": data, "training": training or {}})


def make(user: str, answer: str, line: int = 1, **more: Any) -> Example:
    """An example with a system, a user and an assistant turn."""
    turns = (("system", "s"), ("user", user), ("assistant", answer))
    messages = [{"role": role, "content": content} for role, content in turns]
    fields = {"source": {"file": "raw/a.jsonl", "line": line}, **more}
    return Example(id=example_id(messages), messages=messages, **fields)


def requests(count: int, seed: int = 0) -> list[Example]:
    """Requests made of words of their label's topic and common words; the labels alternate."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        label = LABELS[i % len(LABELS)]
        words = rng.sample(_WORDS[label].split(), 3) + rng.choices(_COMMON, k=rng.randint(4, 9))
        rng.shuffle(words)
        rows.append(make(f"{' '.join(words)} {i}", label, i + 1, label=label))
    return rows


def name_pairs(count: int) -> list[Example]:
    """Sentences with two names; the label says whether they are in alphabetical order."""
    rng, rows = random.Random(0), []
    for i in range(count):
        first, second = rng.sample(NAMES, 2)
        words = rng.choices(FILLER, k=8)
        positions = sorted(rng.sample(range(9), 2))
        words.insert(positions[0], first)
        words.insert(positions[1] + 1, second)
        label = "yes" if first < second else "no"
        rows.append(make(f"{' '.join(words)} {i}", label, i + 1, label=label))
    return rows


def random_splits(examples: list[Example], seed: int = 0) -> dict[str, str]:
    """A random split by example id: 70% train, 10% validation, 20% test."""
    rng = random.Random(seed)
    return {example.id: rng.choices(("train", "validation", "test"), (7, 1, 2))[0] for example in examples}
