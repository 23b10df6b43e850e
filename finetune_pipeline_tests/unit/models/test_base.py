"""Bringing a base model: a local folder is referenced, faults are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_pipeline.engine.store import digest_file
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.base import prepare_base
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline_tests.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "base", dtype="bfloat16")


def test_a_local_folder_is_described_and_referenced(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    facts = prepare_base(str(tiny), None, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tiny)
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())  # tied weights once
    assert facts["dtype"] == "BF16"
    assert facts["context_length"] == 1024
    assert facts["pad_is_eos"] is True
    assert facts["files"]["model.safetensors"] == digest_file(tiny / "model.safetensors")
    assert json.loads((tmp_path / "model.json").read_text())["path"] == str(tiny)
    assert model_folder(tmp_path) == tiny
    assert not (tmp_path / "model").exists()


def test_a_hub_model_that_cannot_be_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FindingsError) as error:
        prepare_base("no-such-owner/no-such-model", None, tmp_path)
    assert error.value.findings[0].rule == "model.download"
    assert "no-such-owner/no-such-model" in error.value.findings[0].message
