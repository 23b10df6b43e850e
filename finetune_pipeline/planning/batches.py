"""Counts the work of a training: packed or padded batches, and steps."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.training.prefix_tree import Row, buckets, prefix_tree, segments

_MAX_BATCHES = 400
"""Maximum number of batches drawn to find the largest one."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Sizes of one forward pass, in positions.

    Attributes:
        tokens: Tokens that pass through every layer.
        queries: Rows of attention's query tensor after packing, padding included.
        keys: Rows of its key and value tensors; a shared prefix counts once for every row that has it.
        scores: Elements of one head's attention matrices kept for the backward pass (packed batches only).
        mask: Elements of the attention mask (padded batches only).
        learned: Tokens with loss.
        logits: Positions whose logits are computed.
    """

    rows: int = 0
    tokens: int = 0
    queries: int = 0
    keys: int = 0
    scores: int = 0
    mask: int = 0
    learned: int = 0
    logits: int = 0


def batch_of(rows: Sequence[Row], settings: Mapping[str, Any], packed: bool) -> Batch:
    """Return the batch that training makes from these rows (training.shared_prefix)."""
    leading, virtual = METHODS[settings["method"]].virtual_tokens(settings)
    learned = sum(sum(row["loss"][1:]) for row in rows)
    if packed:
        lengths, parents = segments(*prefix_tree(sorted(rows, key=lambda r: -len(r["ids"]))), leading)
        groups = buckets(lengths, parents, virtual)
        return Batch(
            rows=len(rows),
            tokens=sum(lengths),
            queries=sum(len(members) * longest for members, _, longest in groups),
            keys=sum(len(members) * (context + longest) for members, context, longest in groups),
            scores=sum(len(members) * longest * (context + longest) for members, context, longest in groups),
            learned=learned,
            logits=learned,
        )
    width = max(len(row["ids"]) for row in rows)
    first_loss = min(row["loss"].index(True) for row in rows if True in row["loss"])
    tokens, ahead = len(rows) * (leading + width), leading + virtual
    return Batch(
        rows=len(rows),
        tokens=tokens,
        queries=tokens,
        keys=len(rows) * (ahead + width),
        mask=len(rows) * (leading + width) * (ahead + width),
        learned=learned,
        logits=len(rows) * (width - first_loss + 1),
    )


def drawn_batches(rows: Sequence[Row], size: int, epochs: float, seed: int) -> Iterator[Sequence[Row]]:
    """Return at most 400 random batches of `size` rows. The trainer's order differs, but is random too."""
    generator = random.Random(seed)  # noqa: S311 - an order, no secret
    orders = (generator.sample(rows, len(rows)) for _ in range(math.ceil(epochs)))
    return islice((order[i : i + size] for order in orders for i in range(0, len(order), size)), _MAX_BATCHES)


class Steps(NamedTuple):
    """Numbers of optimiser steps and validation passes of one phase."""

    steps: int
    steps_per_epoch: int
    evaluations: int


def count_steps(rows: int, settings: Mapping[str, Any]) -> Steps:
    """Count steps as transformers' Trainer does: micro-batches of an epoch divided by those of a step, rounded up.
    Validation runs before the first step, every `every` steps, and after the last step."""
    micro = settings["micro_batch_size"]
    per_epoch = max(1, math.ceil(math.ceil(rows / micro) / (settings["batch_size"] // micro)))
    every = max(1, round(per_epoch / settings["evals_per_epoch"]))
    steps = math.ceil(per_epoch * settings["epochs"])
    return Steps(steps, per_epoch, 1 + math.ceil(steps / every))
