"""Arithmetic a training takes, in floating-point operations: what times are scaled by from one plan to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.planning.batches import Batch, Steps
from finetune_pipeline.planning.memory import checkpoints
from finetune_pipeline.planning.shape import ModelShape, trainable_parameters


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean training batch and validation batch of a phase, and how many of each there are in an epoch and a pass."""

    train: Batch
    validation: Batch | None
    train_batches: int
    validation_batches: int


def mean_batch(batches: Sequence[Batch]) -> Batch:
    """A batch with the mean of every number, rounded."""
    names = Batch.__slots__
    return Batch(*(round(sum(getattr(b, name) for b in batches) / len(batches)) for name in names))


def forward_flops(shape: ModelShape, batch: Batch, adapter: int = 0) -> float:
    """2 operations a parameter and token (Kaplan et al. 2020, section 2.1), attention's two products, and the logits."""
    scores = batch.scores or batch.mask
    return (
        2.0 * (shape.linear + adapter) * batch.tokens
        + 4.0 * shape.layers * shape.heads * shape.head_dim * scores
        + 2.0 * shape.vocabulary * shape.hidden * batch.logits
    )


def training_flops(shape: ModelShape, settings: Mapping[str, Any], batch: Batch) -> float:
    """Forward and backward of a batch: the backward pass takes as much again for what goes on to earlier layers, and once
    more for the weights that are trained; gradient checkpointing repeats the forward pass."""
    adapter = trainable_parameters(shape, settings) if settings["method"] in ("qlora", "lora") else 0
    forward = forward_flops(shape, batch, adapter)
    weights = forward if settings["method"] == "full" else 2.0 * adapter * batch.tokens
    return forward * (3 if checkpoints(shape, settings) else 2) + weights


def phase_flops(shape: ModelShape, settings: Mapping[str, Any], mean: Mean, steps: Steps) -> float:
    """A whole phase, validation included."""
    per_step = mean.train_batches / steps.per_epoch
    trained = training_flops(shape, settings, mean.train) * per_step * steps.steps
    if mean.validation is None:
        return trained
    return trained + forward_flops(shape, mean.validation) * mean.validation_batches * steps.evaluations
