"""One task's training as numbers: what any settings would take, asked as often as a search likes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.models.hardware import cpu_has_bfloat16
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.planning.batches import Batch, Rows, Steps, batch_of, count_steps, drawn_batches, encode_rows
from finetune_pipeline.planning.memory import Memory, evaluation_memory, training_memory
from finetune_pipeline.planning.shape import ModelShape, model_shape
from finetune_pipeline.planning.work import Mean, mean_batch, phase_flops
from finetune_pipeline.training.augmentation import training_examples


def compute_width(precision: str, device: str = "cpu") -> int:
    """Bytes of the compute type that a precision setting comes to (models.loading.resolve_precision): on this CPU, or on a
    GPU, of which bfloat16 is assumed."""
    if precision == "auto":
        precision = "bfloat16" if device != "cpu" or cpu_has_bfloat16() else "float32"
    return 2 if precision == "bfloat16" else 4


@dataclass(frozen=True, slots=True)
class Phase:
    """One training within a plan: qlora has a second one on the unquantized base, as lora."""

    settings: Mapping[str, Any]
    epochs: float
    steps: Steps
    flops: float


class Planner:
    """Answers for one base model and one pair of splits; what is costly is done once.

    rows are encoded again only for other values of max_tokens and over_length, batches drawn again only for other sizes.
    """

    def __init__(
        self, base: Path, train: Sequence[Example], validation: Sequence[Example], device: str = "cpu"
    ) -> None:
        self.folder = model_folder(base)
        self.shape: ModelShape = model_shape(self.folder)
        self.examples = {"train": train, "validation": validation}
        self.device = "cpu" if device == "cpu" else "cuda"
        self._rows: dict[Any, Rows] = {}
        self._drawn: dict[Any, tuple[Batch, Batch]] = {}
        tokenizer = self.folder / "tokenizer.json"
        self.tokenizer_bytes = tokenizer.stat().st_size if tokenizer.exists() else 0

    def epoch_examples(self, settings: Mapping[str, Any]) -> list[Example]:
        """The examples of one epoch: the training split, with training.augment also its perturbed copies."""
        return training_examples(self.examples["train"], settings)

    def rows(self, split: str, settings: Mapping[str, Any]) -> Rows:
        """A split's rows under these settings."""
        virtual = settings[settings["method"]]["tokens"] if settings["method"] in ("prefix", "prompt") else 0
        key = (split, settings["max_tokens"], settings["over_length"], virtual, settings["augment"])
        if key not in self._rows:
            examples = self.epoch_examples(settings) if split == "train" else self.examples[split]
            self._rows[key] = encode_rows(self.folder, examples, settings)
        return self._rows[key]

    def packed(self, settings: Mapping[str, Any]) -> bool:
        """Whether batches will be packed behind shared beginnings."""
        return bool(settings["shared_prefix"]) and self.shape.packs

    def batches(self, split: str, settings: Mapping[str, Any]) -> tuple[Batch, Batch] | None:
        """(largest, mean) batch of a split; None for an empty one. Training batches are drawn at random, `seed` decides;
        validation batches are those there will be."""
        rows = [r for r in self.rows(split, settings).rows if True in r["loss"]]
        if not rows:
            return None
        size = settings["micro_batch_size"] if split == "train" else settings["batch_size"]
        virtual = settings[settings["method"]]["tokens"] if settings["method"] in ("prefix", "prompt") else 0
        packed = self.packed(settings)
        key = (split, size, settings["method"] if virtual else None, virtual, packed, len(rows), settings["max_tokens"])
        if key not in self._drawn:
            if split == "train":
                chosen = drawn_batches(rows, size, max(1.0, settings["epochs"]), settings["seed"])
            else:
                chosen = (rows[i : i + size] for i in range(0, len(rows), size))
            made = [batch_of(batch, settings, packed) for batch in chosen]
            self._drawn[key] = (max(made, key=lambda b: (b.tokens + b.scores / 500, b.logits)), mean_batch(made))
        return self._drawn[key]

    def phase_settings(self, settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The settings of each phase, as training.phases trains them."""
        if settings["method"] != "qlora" or not settings["unquantized_epochs"]:
            return [settings]
        return [settings, {**settings, "method": "lora", "epochs": settings["unquantized_epochs"]}]

    def memory(self, settings: Mapping[str, Any]) -> Memory:
        """The peak, over both phases, of training and validation."""
        most: Memory | None = None
        width = compute_width(settings["precision"], self.device)
        tokens = sum(sum(self.rows(split, settings).lengths) for split in self.examples)
        for phase in self.phase_settings(settings):
            found = self.batches("train", phase)
            batch = found[0] if found else Batch(0, 0, 0, 0, 0, 0, 0, 0)
            told = training_memory(
                self.shape,
                phase,
                batch,
                width=width,
                device=self.device,
                tokenizer_bytes=self.tokenizer_bytes,
                tokens=tokens,
            )
            candidates = [told]
            if validation := self.batches("validation", phase):
                candidates.append(evaluation_memory(self.shape, phase, validation[0], told, width=width))
            most = max([*candidates, *([most] if most else [])], key=lambda m: m.total)
        assert most is not None
        return most

    def phases(self, settings: Mapping[str, Any]) -> list[Phase]:
        """Steps, evaluations and arithmetic of each phase."""
        found = []
        for phase in self.phase_settings(settings):
            rows = len(self.rows("train", phase).rows)
            steps = count_steps(rows, phase, phase["epochs"])
            train, validation = self.batches("train", phase), self.batches("validation", phase)
            flops = 0.0
            if train:
                mean = Mean(
                    train[1],
                    validation[1] if validation else None,
                    math.ceil(rows / phase["micro_batch_size"]),
                    math.ceil(len(self.rows("validation", phase).rows) / phase["batch_size"]),
                )
                flops = phase_flops(self.shape, phase, mean, steps)
            found.append(Phase(phase, phase["epochs"], steps, flops))
        return found

    def tokens_computed(self, settings: Mapping[str, Any]) -> float:
        """Share of the rows' tokens that packing leaves to be computed."""
        found = self.batches("train", settings)
        lengths = self.rows("train", settings).lengths
        if not found or not lengths:
            return 1.0
        mean = sum(lengths) / len(lengths) * found[1].rows
        return found[1].tokens / mean if mean else 1.0
