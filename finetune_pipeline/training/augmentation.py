"""Perturbed copies of training rows: the same answers to texts as production writes them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.perturbations import BLOCKING, kind_of, perturbed, set_name


def training_examples(examples: Sequence[Example], settings: Mapping[str, Any]) -> list[Example]:
    """The examples that one epoch passes over: the training split, and with training.augment a perturbed copy of each row.

    A copy's perturbation is drawn from the kinds that can block, by seed and id; where it cannot change the row, another
    of them takes its place. A row that none can change has no copy. Answers are those of the row.

    Args:
        examples: The training split. Validation and test rows must never come here.
        settings: ``spec.training.model_dump()``.

    Returns:
        The examples as they are, then the copies in the same order. A copy's id is the row's with the perturbation's name
        behind it (perturbations.set_name).
    """
    if not settings["augment"]:
        return list(examples)
    seed, labels = settings["seed"], sorted({e.label for e in examples if e.label})
    copies = {kind: {e.id: e for e in perturbed(examples, kind, seed, labels, "training")} for kind in BLOCKING}
    added = []
    for example in examples:
        dice = random.Random(hashlib.sha256(f"{seed}:augment:{example.id}".encode()).digest())  # noqa: S311
        order = dice.sample(BLOCKING, len(BLOCKING))
        kind = next((kind for kind in order if example.id in copies[kind]), None)
        if kind is not None:
            added.append(replace(copies[kind][example.id], id=set_name(example.id, kind)))
    return [*examples, *added]


def augmented_facts(row_ids: Iterable[str], too_long: Sequence[str]) -> dict[str, Any]:
    """What was added to the training split: {rows, kinds {perturbation: rows}, too_long}.

    Args:
        row_ids: Ids of the rows that are trained on.
        too_long: Ids of copies left out because they are longer than allowed.
    """
    kinds = [kind_of(row_id) for row_id in sorted(set(row_ids))]
    counts = {kind: kinds.count(kind) for kind in BLOCKING if kind in kinds}
    return {"rows": sum(counts.values()), "kinds": counts, "too_long": len(too_long)}
