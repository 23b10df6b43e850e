"""Several devices: DDP where the model fits into each, shards where only those do, and free memory read from nvidia-smi."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.planning.batches import Batch
from finetune_pipeline.planning.devices import spread
from finetune_pipeline.planning.gpus import gpu_memory
from finetune_pipeline.planning.shape import shape_of
from finetune_pipeline.spec.model import TrainingSpec

MISTRAL = {
    "model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False,
}  # fmt: skip
BATCH = Batch(rows=4, tokens=1000, queries=1100, keys=2000, scores=400_000, mask=0, learned=80, logits=80)


def told(method: str, devices: int, gib: float) -> Any:
    settings = TrainingSpec.model_validate({"method": method, "gradient_checkpointing": True}).model_dump()
    if method == "prefix":
        settings["gradient_checkpointing"] = False
    return spread(shape_of(MISTRAL), settings, BATCH, width=2, devices=devices, bytes_each=int(gib * 2**30))


def test_seven_billion_parameters_on_cards_that_exist() -> None:
    assert told("qlora", 1, 12).strategy == "single"
    assert told("lora", 1, 12).strategy is None, "14 GB of weights alone"
    assert told("lora", 1, 24).strategy == "single"
    assert told("lora", 2, 24).strategy == "ddp"
    assert told("lora", 2, 12).strategy == "fsdp2"
    full = told("full", 8, 80)
    assert full.strategy == "fsdp2" and full.per_device["ddp"] > 16 * 7.2e9, "16 bytes a parameter"
    assert full.per_device["fsdp2"] < full.per_device["ddp"] / 4
    assert told("full", 2, 24).strategy is None
    assert "fsdp2" not in told("qlora", 4, 2).per_device


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
