"""Parity: a right merge passes, and each kind of wrong merge is seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.models.merging import merge
from finetune_pipeline.models.parity import MEAN_KL_LIMIT, parity
from finetune_pipeline.training.faults import JobError
from finetune_pipeline_tests.tiny_model import LABELS, make_tiny_model, write_tiny_examples
from finetune_pipeline_tests.unit.models.adapters import make_adapter


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, list[Example]]:
    """(base, adapter, merged, examples)"""
    root = tmp_path_factory.mktemp("parity")
    base = make_tiny_model(root / "base", dtype="bfloat16")
    adapter = make_adapter(base, root / "adapter", size=0.1)
    merge(base, adapter, root / "merged")
    return base, adapter, root / "merged", read_examples(write_tiny_examples(root / "e.jsonl", range(12)))


def _parity(made: tuple[Path, Path, Path, list[Example]], merged: Path) -> dict[str, Any]:
    base, adapter, _, examples = made
    return parity(base, adapter, merged, examples, LABELS, max_new_tokens=6, batch_size=5)


def test_a_right_merge_passes(made: tuple[Path, Path, Path, list[Example]]) -> None:
    facts = _parity(made, made[2])
    assert facts["passed"] and facts["rows"] == 12
    assert facts["same_greedy_share"] >= 11 / 12
    assert facts["same_label_share"] == 1.0
    assert facts["mean_kl"] <= MEAN_KL_LIMIT / 2
    assert facts["positions"] == sum(len(e) for e in _gold(made))
    assert facts["max_abs_logit_difference"] > 0  # the merged weights were rounded to bfloat16


def _gold(made: tuple[Path, Path, Path, list[Example]]) -> list[list[int]]:
    from finetune_pipeline.models.chat import encode_answer
    from finetune_pipeline.models.loading import load_tokenizer

    tokenizer = load_tokenizer(made[0])
    return [encode_answer(tokenizer, e.prompt_messages, e.answer) for e in made[3]]


def test_a_wrong_scaling_is_seen(made: tuple[Path, Path, Path, list[Example]], tmp_path: Path) -> None:
    adapter = shutil.copytree(made[1], tmp_path / "adapter")
    told = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**told, "lora_alpha": told["lora_alpha"] * 1.5}))
    merge(made[0], adapter, tmp_path / "merged")
    facts = _parity(made, tmp_path / "merged")
    assert not facts["passed"] and facts["mean_kl"] > 5 * MEAN_KL_LIMIT


def test_the_base_passed_off_as_merged_is_seen(made: tuple[Path, Path, Path, list[Example]]) -> None:
    facts = _parity(made, made[0])
    assert not facts["passed"] and facts["same_greedy_share"] < 0.5
    assert len(facts["different"]) == facts["rows"] - facts["same_greedy"]


def test_a_merge_into_four_bit_weights_is_seen(made: tuple[Path, Path, Path, list[Example]], tmp_path: Path) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    rounded = shutil.copytree(made[0], tmp_path / "rounded")
    tensors = load_file(rounded / "model.safetensors")
    for name, tensor in tensors.items():
        if "_proj" in name:
            quantized, state = quantize_4bit(tensor, quant_type="nf4", compress_statistics=True)
            tensors[name] = dequantize_4bit(quantized, state)
    save_file(tensors, rounded / "model.safetensors", metadata={"format": "pt"})
    merge(rounded, made[1], tmp_path / "merged")
    facts = _parity(made, tmp_path / "merged")
    assert not facts["passed"] and facts["mean_kl"] > 3 * MEAN_KL_LIMIT


def test_logits_that_are_not_finite_are_refused(made: tuple[Path, Path, Path, list[Example]], tmp_path: Path) -> None:
    broken = shutil.copytree(made[2], tmp_path / "broken")
    path = broken / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], float("nan"))
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(JobError, match="merged model gives logits that are not finite"):
        _parity(made, broken)
