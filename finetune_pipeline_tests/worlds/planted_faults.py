"""Faults planted into the processes of a run: a part of a module is replaced when it is imported.

The environment variable PLANTED_FAULT names the fault. Nothing is imported earlier, and nothing else changes.
"""

import importlib.abc
import importlib.machinery
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec.structs import replace

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


FAULTS: dict[str, tuple[str, Callable[[ModuleType], None]]] = {
    "independent_split": ("finetune_pipeline.data.split.splitting", independent_split),
    "swapped_labels": ("finetune_pipeline.training.sft", swapped_labels),
    "broken_form": ("finetune_pipeline.training.sft", broken_form),
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
