"""Helper: training orders for hosted trainers, and an adapter that fits the tiny model."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from finetune_pipeline.faults import OutsideError
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.trainers import TrainingOrder, train
from finetune_pipeline_tests.tiny_model import make_tiny_model, write_tiny_examples
from finetune_pipeline_tests.unit.training.jobs import task

RANK = 4
GPT = {"model": "gpt-4.1-mini-2025-04-14"}
QUICK = {"poll_seconds": 0.01, "request_seconds": 20.0, "settle_seconds": 1.0}
"""Patience for servers on this machine that answer."""


def make_task(
    trainer: str, section: Mapping[str, Any], spec: Mapping[str, Any] | None = None, **training: Any
) -> TaskSpec:
    """A task for a hosted trainer with a section of its own."""
    chosen = {"method": "lora", "epochs": 2, "lora": {"r": RANK, "alpha": 8, "dropout": 0.0}}
    chosen |= {"trainer": trainer, trainer: {**QUICK, **section}, **training}
    return task(chosen, **{"base_model": "org/tiny", **(spec or {})})


def make_rows(folder: Path, rows: int = 12, long: int | None = None) -> Path:
    """folder/base (empty until a test wants the model), folder/train.jsonl and folder/validation.jsonl.

    long: Number of a training row, from 1, that has more tokens than any service takes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tiny_examples(folder / "train.jsonl", range(rows))
    if long is not None:
        lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        lines[long - 1]["messages"][1]["content"] = "long " * 50_000
        (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_tiny_examples(folder / "validation.jsonl", range(rows, rows + 4))
    return folder


def make_base(folder: Path) -> Path:
    """The tiny model in folder/base."""
    return make_tiny_model(folder / "base")


def make_order(spec: TaskSpec, rows: Path, place: Path) -> TrainingOrder:
    """An order with everything it writes below `place`."""

    def launch(job: Mapping[str, Any]) -> dict[str, Any]:
        raise AssertionError("a hosted trainer starts nothing on this machine")

    (place / "work").mkdir(parents=True, exist_ok=True)
    files = rows / "base", rows / "train.jsonl", rows / "validation.jsonl"
    return TrainingOrder(spec, *files, place / "out", place / "work", launch, home=place / "home")


def persist(order: TrainingOrder) -> dict[str, Any]:
    """Train as people would, who run it again while something outside does not work."""
    for _ in range(5):
        with contextlib.suppress(OutsideError):
            return train(order)
    return train(order)


def interrupt(*_: object, **__: object) -> None:
    """What a user does who has seen enough, as an order's tick or in the place of any function."""
    raise KeyboardInterrupt


def tiny_adapter(marker: float = 0.5) -> dict[str, bytes]:
    """The files of a LoRA adapter of the tiny model's queries; `marker` fills it."""
    tensors = {}
    for layer in range(2):
        module = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{module}.lora_A.weight"] = np.full((RANK, 64), marker, np.float32)
        tensors[f"{module}.lora_B.weight"] = np.full((64, RANK), marker, np.float32)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save(tensors),
        "README.md": b"not wanted",
    }


def files_below(*folders: Path) -> dict[str, bytes]:
    """Every file below these folders."""
    return {str(p): p.read_bytes() for folder in folders for p in folder.rglob("*") if p.is_file()}
