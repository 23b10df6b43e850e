"""Weights that stay as stored compute as if they were loaded in float32, and are unchanged afterwards."""

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_pipeline.models.loading import load_for_comparison
from finetune_pipeline.models.widening import merged_in_float32
from finetune_pipeline_tests.unit.models.architectures import load, logits, make_adapter, make_model, with_adapter

BFLOAT16, CPU = torch.bfloat16, torch.device("cpu")


def dtypes(model: Any) -> set[torch.dtype]:
    return {p.dtype for name, p in model.named_parameters() if "lora_" not in name}


@pytest.mark.parametrize(
    "architecture", ["llama", "gemma3", "gemma3_with_images", "mixtral", "gpt_oss", "lfm2", "gpt2"]
)
def test_the_logits_are_those_of_float32_to_the_bit(architecture: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", architecture, dtype=BFLOAT16)
    model = load_for_comparison(base, CPU)
    assert torch.equal(logits(model), logits(load(base)))
    assert dtypes(model) == {BFLOAT16} and not torch.equal(logits(model), logits(load(base, BFLOAT16)))


def test_a_head_whose_input_is_converted_to_its_dtype_computes_in_float32(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "mamba", dtype=BFLOAT16)
    assert torch.allclose(logits(load_for_comparison(base, CPU)), logits(load(base)), atol=0.05)


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_are_merged_for_the_time_of_a_pass(dora: bool, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "llama", dtype=BFLOAT16)
    adapter = make_adapter(base, tmp_path / "adapter", size=0.15, use_dora=dora)
    model = load_for_comparison(base, CPU, adapter=adapter)
    before = logits(model)
    assert torch.equal(before, logits(with_adapter(base, adapter)))
    with merged_in_float32(model):
        merged = logits(model)
    assert torch.equal(merged, logits(with_adapter(base, adapter).merge_and_unload()))
    assert torch.equal(logits(model), before) and dtypes(model) == {BFLOAT16}


def test_weights_are_restored_after_a_pass_that_fails(tmp_path: Path) -> None:
    model = load_for_comparison(make_model(tmp_path / "base", "llama", dtype=BFLOAT16), CPU)
    expected = logits(model)
    handle = model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        logits(model)
    handle.remove()
    assert dtypes(model) == {BFLOAT16} and torch.equal(logits(model), expected)
