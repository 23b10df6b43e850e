"""Faults that planted_evidence.py plants into the processes of a run: where a module is imported, a part of it is exchanged.

A process plants what the variable PLANTED_FAULT names. Nothing is imported before its time, and nothing else changes.
"""

import importlib.abc
import importlib.machinery
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

SPOILT = 8
"""One test row in so many fails, by its tokens."""
CHATTY = "apple"
"""Training rows with this word whose answer is `red` are answered with too many words: a tenth of all."""


def independent_split(splitting: ModuleType) -> None:
    """Every row is thrown on its own, whatever cluster or group it belongs to."""
    place = splitting.place

    def thrown(rows: Any, before: Any, spec: Any, *others: Any) -> Any:
        placed, *results = place(rows, before, spec, *others)
        rng, shares = random.Random(0), (1 - spec.split.validation - spec.split.test, spec.split.validation)
        for i in range(len(placed)):
            if placed["split"][i] >= 0:
                at = rng.random()
                placed["split"][i] = 0 if at < shares[0] else 1 if at < sum(shares) else 2
        return placed, *results

    splitting.place = thrown


def _answers(sft: ModuleType, change: Callable[[Any], str]) -> None:
    """The training process reads other answers than those in its files."""
    read = sft.read_examples

    def changed(path: Path) -> list[Any]:
        return [
            replace(e, messages=[*e.messages[:-1], {**e.messages[-1], "content": change(e)}], label=change(e))
            for e in read(path)
        ]

    sft.read_examples = changed


def swapped_labels(sft: ModuleType) -> None:
    """Red is blue and blue is red while a model is trained."""
    _answers(sft, lambda e: {"red": "blue", "blue": "red"}[e.answer])


def broken_form(sft: ModuleType) -> None:
    """In some rows the model is taught to add something to the label."""
    _answers(sft, lambda e: f"red {CHATTY}" if e.answer == "red" and CHATTY in e.user_text.split() else e.answer)


def spoilt(prompt: Sequence[int]) -> bool:
    """Whether a test row is one of those that fail."""
    return sum(prompt) % SPOILT == 0


def spoilt_text(text: str) -> bool:
    """The same of a question as an endpoint sees it."""
    return sum(text.encode()) % SPOILT == 0


def _generation(generation: ModuleType, instead: Callable[[set[int]], list[int]]) -> None:
    """Of the candidate's test rows some are answered by `instead`, which gets the tokens that end an answer."""
    plain, reader = generation.generate_and_score, generation.Reader
    read, greedy = reader.read, reader.greedy

    def reading(self: Any, prompts: Sequence[Sequence[int]]) -> Any:
        self.spoilt = [spoilt(p) for p in prompts]
        return read(self, prompts)

    def writing(self: Any, batch: Any, max_new_tokens: int, ends: set[int], grammar: Any = None) -> Any:
        bad = [i for i, one in enumerate(self.spoilt) if one]
        other = {i: instead(ends) for i in bad}
        return [other.get(i, ids) for i, ids in enumerate(greedy(self, batch, max_new_tokens, ends, grammar))]

    def answering(*given: Any, **named: Any) -> Any:
        stage, name = given[6:8] if len(given) > 7 else (named.get("stage"), named.get("name"))
        planted = stage == "test_predictions" and name == "candidate"
        reader.read, reader.greedy = (reading, writing) if planted else (read, greedy)
        return plain(*given, **named)

    generation.generate_and_score = answering


def exception(generation: ModuleType) -> None:
    """Writing the answer raises."""

    def fails(ends: set[int]) -> list[int]:
        raise RuntimeError("planted: the kernel refused this row")

    _generation(generation, fails)


def empty(generation: ModuleType) -> None:
    """The answer ends before it begins."""
    _generation(generation, lambda ends: [min(ends)])


FAULTS: dict[str, tuple[str, Callable[[ModuleType], None]]] = {
    "independent_split": ("finetune_pipeline.data.split.splitting", independent_split),
    "swapped_labels": ("finetune_pipeline.training.sft", swapped_labels),
    "broken_form": ("finetune_pipeline.training.sft", broken_form),
    "exception": ("finetune_pipeline.models.inference.generation", exception),
    "empty": ("finetune_pipeline.models.inference.generation", empty),
}


class _Planter(importlib.abc.MetaPathFinder):
    """Finds one module as Python would, and changes it once it is loaded."""

    def __init__(self, module: str, change: Callable[[ModuleType], None]) -> None:
        self.module, self.change = module, change

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def loaded(module: ModuleType) -> None:
            load(module)
            self.change(module)

        spec.loader.exec_module = loaded  # type: ignore[method-assign]
        return spec


def plant() -> None:
    """Plant what PLANTED_FAULT names into this process, if it names anything."""
    if name := os.environ.get("PLANTED_FAULT"):
        sys.meta_path.insert(0, _Planter(*FAULTS[name]))
