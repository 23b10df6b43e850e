"""Training orders for hosted trainers, and an adapter of the tiny model."""

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
from finetune_pipeline_tests.tiny_model import write_tiny_examples
from finetune_pipeline_tests.unit.training.jobs import task

RANK = 4
GPT = {"model": "gpt-4.1-mini-2025-04-14"}
QUICK = {"poll_seconds": 0.01, "request_seconds": 20.0, "settle_seconds": 1.0}
"""Intervals and timeouts for a local server."""


def make_task(
    trainer: str, section: Mapping[str, Any], spec: Mapping[str, Any] | None = None, **training: Any
) -> TaskSpec:
    """A task for a hosted trainer. section: keys of the trainer's section; training: other keys of `training`."""
    settings = {"method": "lora", "epochs": 2, "lora": {"r": RANK, "alpha": 8, "dropout": 0.0}}
    settings |= {"trainer": trainer, trainer: {**QUICK, **section}, **training}
    return task(settings, **{"base_model": "org/tiny", **(spec or {})})


def make_rows(folder: Path, rows: int = 12, long: int | None = None) -> Path:
    """Write folder/train.jsonl and folder/validation.jsonl.

    long: Line number of a training row that exceeds every service's token limit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tiny_examples(folder / "train.jsonl", range(rows))
    if long is not None:
        lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        lines[long - 1]["messages"][1]["content"] = "long " * 50_000
        (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_tiny_examples(folder / "validation.jsonl", range(rows, rows + 4))
    return folder


def make_order(spec: TaskSpec, rows: Path, folder: Path) -> TrainingOrder:
    """An order that writes only below `folder`."""

    def launch(job: Mapping[str, Any]) -> dict[str, Any]:
        raise AssertionError("a hosted trainer must not start a local job")

    (folder / "work").mkdir(parents=True, exist_ok=True)
    files = rows / "base", rows / "train.jsonl", rows / "validation.jsonl"
    return TrainingOrder(spec, *files, folder / "out", folder / "work", launch, home=folder / "home")


def persist(order: TrainingOrder) -> dict[str, Any]:
    """Train, rerunning after errors of the service as a user would."""
    for _ in range(5):
        with contextlib.suppress(OutsideError):
            return train(order)
    return train(order)


def interrupt(*_: object, **__: object) -> None:
    """Raise KeyboardInterrupt, as an order's tick or in place of any function."""
    raise KeyboardInterrupt


def tiny_adapter(marker: float = 0.5) -> dict[str, bytes]:
    """Files of a LoRA adapter of the tiny model's query projections, filled with `marker`."""
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
    """Contents of every file below these folders, by path."""
    return {str(p): p.read_bytes() for folder in folders for p in folder.rglob("*") if p.is_file()}
