"""The memory formula against what PyTorch really keeps, for every method, precision, kind of batch and architecture."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.planning.batches import batch_of
from finetune_pipeline.planning.memory import activation_bytes, available_memory, gpu_memory, weight_bytes
from finetune_pipeline.planning.shape import model_shape
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.training.fused import fuse, token_losses
from finetune_pipeline.training.model import build
from finetune_pipeline.training.rows import prepare_split, task_text
from finetune_pipeline.training.shared_prefix import (
    PaddedCollator,
    logits_to_learn,
    packed_collator,
    supports_shared_prefix,
)
from finetune_pipeline_tests.tiny_model import write_tiny_examples
from finetune_pipeline_tests.unit.models.architectures import make_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {name: make_model(place / name, name) for name in ("llama", "qwen3", "gemma3")}


def saved_tensors(model: Any, batch: dict[str, Any], autocast: torch.dtype | None) -> int:
    """Bytes of the storages that are kept for the backward pass and are no parameters', up to the loss."""
    held = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    alive = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        low = torch.autocast("cpu", dtype=autocast) if autocast else torch.autocast("cpu", enabled=False)
        with low:
            logits = logits_to_learn(model, batch)
        alive.append(token_losses(logits, batch["labels"]).sum())
    return sum(kept.values())


def _compare(folder: Path, rows_file: Path, packed: bool, **settings: Any) -> tuple[int, int, dict[str, Any]]:
    """(bytes kept by PyTorch, bytes by the formula, facts about the loaded weights)."""
    settings = TrainingSpec.model_validate(
        {
            "lora": {"r": 4},
            "prefix": {"tokens": 6},
            "prompt": {"tokens": 7},
            "gradient_checkpointing": False,
            **settings,
        }
    ).model_dump()
    compute = getattr(torch, settings["precision"])
    tokenizer, examples = load_tokenizer(folder), read_examples(rows_file)
    built = build(folder, settings, compute, CPU, tokenizer, task_text(examples))
    if packed:
        assert supports_shared_prefix(built.model)[0]
    fuse(built.model)
    built.model.train()
    rows = prepare_split(tokenizer, examples, 1024, "fail", "rows").plain_rows()
    collator: Any = packed_collator(built.model) if packed else PaddedCollator(0)
    kept = saved_tensors(built.model, collator(rows), built.autocast)
    shape, width = model_shape(folder), compute.itemsize
    batch = batch_of(rows, settings, packed)
    predicted = activation_bytes(shape, settings, batch, width) + batch.learned * shape.vocabulary * width
    if settings["method"] == "qlora" and width == 4:
        predicted += 4 * shape.vocabulary * shape.hidden
    return kept, predicted, built.weights


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_activations_are_what_is_kept(models: dict[str, Path], tmp_path: Path, name: str, method: str) -> None:
    rows = write_tiny_examples(tmp_path / "rows.jsonl", range(6))
    for precision, packed in itertools.product(("float32", "bfloat16"), (True, False)):
        kept, predicted, weights = _compare(models[name], rows, packed, method=method, precision=precision)
        assert predicted == pytest.approx(kept, rel=0.07), (precision, packed, predicted / kept)
        width = 2 if precision == "bfloat16" else 4
        # quantization constants weigh more where layers are tiny
        assert weight_bytes(model_shape(models[name]), METHODS[method], width) == pytest.approx(
            weights["bytes_loaded"], rel=0.35 if method == "qlora" else 0.001
        )


def test_the_smallest_of_what_limits_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FINETUNE_MEMORY_GIB", raising=False)
    free = psutil.virtual_memory().available
    assert available_memory("cpu", tmp_path) == pytest.approx(free, rel=0.5), "no such control group"
    for name, text in {"max": "500000", "current": "300000", "stat": "anon 1\ninactive_file 100000\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert available_memory("cpu", tmp_path) == 300_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory("cpu", tmp_path) > 300_000
    monkeypatch.setenv("FINETUNE_MEMORY_GIB", "1.5")
    assert available_memory("cpu", tmp_path) == available_memory("cuda:0") == 3 * 2**29
    monkeypatch.setenv("FINETUNE_MEMORY_GIB", "much")
    with pytest.raises(ValueError, match="not a number of GiB"):
        available_memory("cpu")


def _nvidia_smi(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_free_memory_of_the_gpus_one_may_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    _nvidia_smi(tmp_path, "echo '0, 81000'; echo '1, 40000'", monkeypatch)
    assert gpu_memory() == [81000 * 2**20, 40000 * 2**20]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpu_memory() == [40000 * 2**20]


@pytest.mark.parametrize("text", ["exit 9", "echo 'No devices were found'"])
def test_memory_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    _nvidia_smi(tmp_path, text, monkeypatch)
    with pytest.raises(ValueError, match="cannot be read"):
        gpu_memory()
