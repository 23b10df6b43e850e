"""Faults that planted_evidence.py plants into the processes of a run: a part of a module is replaced when it is imported.

The environment variable PLANTED_FAULT names the fault. Nothing is imported earlier, and nothing else changes.
"""

import importlib.abc
import importlib.machinery
import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec.structs import replace

FAILING_ROWS = 8
"""One test row in eight fails, chosen by its tokens."""
EXTRA_WORD = "apple"
"""Training rows with this word and the answer `red`, a tenth of all, get the answer `red apple`."""


def independent_split(splitting: ModuleType) -> None:
    """Draw the split of every row on its own, whatever cluster or group it belongs to."""
    place = splitting.place

    def place_independently(rows: Any, before: Any, spec: Any, *others: Any) -> Any:
        placed, *results = place(rows, before, spec, *others)
        rng, shares = random.Random(0), (1 - spec.split.validation - spec.split.test, spec.split.validation)
        for i in range(len(placed)):
            if placed["split"][i] >= 0:
                drawn = rng.random()
                placed["split"][i] = 0 if drawn < shares[0] else 1 if drawn < sum(shares) else 2
        return placed, *results

    splitting.place = place_independently


def _change_answers(sft: ModuleType, change: Callable[[Any], str]) -> None:
    """Make the training process read other answers than those in its files."""
    read = sft.read_examples

    def changed(path: Path) -> list[Any]:
        return [
            replace(e, messages=[*e.messages[:-1], {**e.messages[-1], "content": change(e)}], label=change(e))
            for e in read(path)
        ]

    sft.read_examples = changed


def swapped_labels(sft: ModuleType) -> None:
    """Swap red and blue while a model is trained."""
    _change_answers(sft, lambda e: {"red": "blue", "blue": "red"}[e.answer])


def broken_form(sft: ModuleType) -> None:
    """Teach the model to add a word to the label in some rows."""
    _change_answers(
        sft, lambda e: f"red {EXTRA_WORD}" if e.answer == "red" and EXTRA_WORD in e.user_text.split() else e.answer
    )


def fails(prompt: Sequence[int]) -> bool:
    """Whether the answer to a prompt must fail."""
    return sum(prompt) % FAILING_ROWS == 0


def text_fails(text: str) -> bool:
    """The same for a text sent to an endpoint."""
    return sum(text.encode()) % FAILING_ROWS == 0


def _replace_answers(generation: ModuleType, replacement: Callable[[set[int]], list[int]]) -> None:
    """Answer some of the candidate's test rows by `replacement`, which gets the tokens that end an answer."""
    generate, reader = generation.generate_and_score, generation.Reader
    read, greedy = reader.read, reader.greedy

    def faulty_read(self: Any, prompts: Sequence[Sequence[int]]) -> Any:
        self.failing = [i for i, prompt in enumerate(prompts) if fails(prompt)]
        return read(self, prompts)

    def faulty_greedy(self: Any, batch: Any, max_new_tokens: int, ends: set[int], grammar: Any = None) -> Any:
        replaced = {i: replacement(ends) for i in self.failing}
        return [replaced.get(i, ids) for i, ids in enumerate(greedy(self, batch, max_new_tokens, ends, grammar))]

    def faulty_generate(*args: Any, **named: Any) -> Any:
        stage, name = args[6:8] if len(args) > 7 else (named.get("stage"), named.get("name"))
        planted = stage == "test_predictions" and name == "candidate"
        reader.read, reader.greedy = (faulty_read, faulty_greedy) if planted else (read, greedy)
        return generate(*args, **named)

    generation.generate_and_score = faulty_generate


def exception(generation: ModuleType) -> None:
    """Raise an error while an answer is generated."""

    def raise_error(ends: set[int]) -> list[int]:
        raise RuntimeError("planted: the kernel refused this row")

    _replace_answers(generation, raise_error)


def empty(generation: ModuleType) -> None:
    """End an answer before its first token."""
    _replace_answers(generation, lambda ends: [min(ends)])


FAULTS: dict[str, tuple[str, Callable[[ModuleType], None]]] = {
    "independent_split": ("finetune_pipeline.data.split.splitting", independent_split),
    "swapped_labels": ("finetune_pipeline.training.sft", swapped_labels),
    "broken_form": ("finetune_pipeline.training.sft", broken_form),
    "exception": ("finetune_pipeline.models.inference.generation", exception),
    "empty": ("finetune_pipeline.models.inference.generation", empty),
}


class _Planter(importlib.abc.MetaPathFinder):
    """Finds one module as Python would, and changes it after loading."""

    def __init__(self, module: str, change: Callable[[ModuleType], None]) -> None:
        self.module, self.change = module, change

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def load_and_change(module: ModuleType) -> None:
            load(module)
            self.change(module)

        spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


def plant() -> None:
    """Plant the fault of PLANTED_FAULT, if it is set, into this process."""
    if name := os.environ.get("PLANTED_FAULT"):
        sys.meta_path.insert(0, _Planter(*FAULTS[name]))
