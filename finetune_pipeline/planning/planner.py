"""Computes the rows, batches, phases and memory of a task's training for any settings."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from finetune_pipeline.data.examples import Example
from finetune_pipeline.findings import Finding
from finetune_pipeline.models.hardware import cpu_has_bfloat16
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.model_files import read_config
from finetune_pipeline.planning.memory import Batch, Memory, training_memory
from finetune_pipeline.planning.shape import model_shape
from finetune_pipeline.planning.tokens import TokenCounter
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.training import TrainingSettings
from finetune_pipeline.training.prefix_tree import Row, prefix_tree, segments
from finetune_pipeline.training.processes import validation_rows_per_pass
from finetune_pipeline.training.rows import encode_split, longest_allowed, training_examples

_MAX_BATCHES = 400
"""Maximum number of batches drawn to find the largest one."""


def compute_width(precision: str, device: str = "cpu") -> int:
    """Return the bytes of the compute dtype for a precision setting; a GPU is assumed to support bfloat16."""
    if precision == "auto":
        precision = "bfloat16" if device != "cpu" or cpu_has_bfloat16() else "float32"
    return 2 if precision == "bfloat16" else 4


def batch_of(rows: Sequence[Row], settings: TrainingSettings, packed: bool) -> Batch:
    """Return the batch that training makes from these rows (training.shared_prefix): packed after shared prefixes, or padded."""
    leading, virtual = METHODS[settings.method].virtual_tokens(settings)
    longest = leading + max(len(row["ids"]) for row in rows)
    first_loss = min(row["loss"].index(True) if True in row["loss"] else len(row["ids"]) for row in rows)
    tokens, logits = len(rows) * longest, len(rows) * (longest - leading - first_loss + 1)
    if packed:
        tokens = sum(segments(*prefix_tree(sorted(rows, key=lambda row: -len(row["ids"]))), leading)[0])
        logits = sum(1 if "class_id" in row else sum(row["loss"][1:]) for row in rows)
    return Batch(rows=len(rows), tokens=tokens, longest=longest + virtual, logits=logits)


class Steps(NamedTuple):
    """Numbers of optimiser steps and validation passes of one phase."""

    steps: int
    steps_per_epoch: int
    evaluations: int


def count_steps(rows: int, settings: TrainingSettings) -> Steps:
    """Count steps as transformers' Trainer does, which rounds an epoch up to whole steps. Validation runs before the first step,
    every `every` steps, and after the last step."""
    per_epoch = max(1, math.ceil(rows / settings.batch_size))
    every = max(1, round(per_epoch / settings.evals_per_epoch))
    steps = math.ceil(per_epoch * settings.epochs)
    return Steps(steps, per_epoch, 1 + math.ceil(steps / every))


@dataclass(frozen=True, slots=True)
class Rows:
    """A split as rows {id, ids, loss}. over: examples longer than `limit` tokens, handled according to training.over_length; with
    ``fail`` they are kept. findings: why examples cannot be encoded."""

    rows: list[Row]
    over: int
    limit: int
    findings: list[Finding]

    @property
    def tokens(self) -> int:
        return sum(len(row["ids"]) for row in self.rows)


@dataclass(frozen=True, slots=True)
class Phase:
    """One training phase of a plan; qlora has a second phase, lora on the unquantized base. evaluations: passes over the
    validation split."""

    method: str
    epochs: float
    steps: int
    steps_per_epoch: int
    evaluations: int


class Planner:
    """Computes plans for one base model and one pair of splits.
    Costly results are cached: encoded rows by what their encoding depends on, and batches by their sizes."""

    def __init__(
        self,
        base: Path,
        train: Sequence[Example],
        validation: Sequence[Example],
        device: str = "cpu",
        counter: TokenCounter | None = None,
    ) -> None:
        """counter: with another chat template than the folder's own."""
        self.folder = model_folder(base)
        self.counter = counter or TokenCounter(self.folder)
        self.shape = model_shape(self.folder)
        self.examples = {"train": train, "validation": validation}
        self.labels = sorted({example.answer for example in (*train, *validation)})
        self.device = "cpu" if device == "cpu" else "cuda"
        self.config = read_config(self.folder)
        self._rows: dict[Any, Rows] = {}
        self._batches: dict[Any, list[Batch]] = {}

    def rows(self, split: str, settings: TrainingSettings) -> Rows:
        """Return a split's rows under these settings, encoded by the function that training uses."""
        limit = longest_allowed(settings, self.config)
        classes = [] if METHODS[settings.method].kind.generates else self.labels
        key = (split, limit, settings.over_length, split == "train" and settings.augment, bool(classes))
        if key not in self._rows:
            examples = self.examples[split] if split != "train" else training_examples(self.examples[split], settings)
            encoded = encode_split(self.counter, examples, limit, settings.over_length, classes)
            self._rows[key] = Rows(encoded.plain_rows(), encoded.over, limit, encoded.refused)
        return self._rows[key]

    def precision(self, settings: TrainingSettings) -> str:
        """Return the compute dtype: float32 or bfloat16."""
        return "bfloat16" if compute_width(settings.precision, self.device) == 2 else "float32"

    def batches(self, split: str, settings: TrainingSettings) -> list[Batch]:
        """Return batches of a split, in a random order (from `seed`) for training: the trainer's differs, but is random too."""
        rows = [r for r in self.rows(split, settings).rows if True in r["loss"] or "class_id" in r]
        micro = settings.micro_batch_size
        size = micro if split == "train" else validation_rows_per_pass(micro)
        virtual = METHODS[settings.method].virtual_tokens(settings)
        packed = settings.shared_prefix and self.shape.packs
        classifies = not METHODS[settings.method].kind.generates
        key = (split, size, virtual, packed, len(rows), settings.max_tokens, classifies)
        if key not in self._batches:
            if split == "train":
                rows = random.Random(settings.seed).sample(rows, len(rows))  # noqa: S311 - an order, no secret
            starts = range(0, len(rows), size)[:_MAX_BATCHES]
            self._batches[key] = [batch_of(rows[i : i + size], settings, packed) for i in starts]
        return self._batches[key]

    def phases(self, settings: TrainingSettings) -> list[Phase]:
        """Return the steps and validation passes of each phase."""
        phases = METHODS[settings.method].phases(settings)
        counted = [count_steps(len(self.rows("train", phase).rows), phase) for phase in phases]
        return [Phase(phase.method, phase.epochs, *steps) for phase, steps in zip(phases, counted, strict=True)]

    def computed_share(self, settings: TrainingSettings) -> float:
        """Return the share of the training rows' tokens that packing leaves to compute."""
        rows, batches = self.rows("train", settings), self.batches("train", settings)
        drawn_rows = sum(batch.rows for batch in batches) or 1
        computed = sum(batch.tokens for batch in batches) * len(rows.rows) / drawn_rows
        return computed / rows.tokens if rows.tokens else 1.0

    def memory(self, settings: TrainingSettings) -> Memory:
        """Return the peak memory of training and validation over all phases."""
        peaks: list[Memory] = []
        tokens = sum(self.rows(split, settings).tokens for split in self.examples)
        for phase in METHODS[settings.method].phases(settings):
            batches = self.batches("train", phase)
            estimate = partial(
                training_memory,
                self.shape,
                phase,
                width=compute_width(settings.precision, self.device),
                device=self.device,
                tokens=tokens,
                sizes=len({batch.tokens for batch in batches}),
            )
            peaks.append(estimate(_largest(batches)))
            peaks.append(estimate(_largest(self.batches("validation", phase)), validating=True))
        return max(peaks, key=lambda memory: memory.total)


def _largest(batches: Sequence[Batch]) -> Batch:
    """Return the batch that probably needs the most memory."""
    return max(batches, key=lambda batch: (batch.tokens, batch.logits), default=Batch())
