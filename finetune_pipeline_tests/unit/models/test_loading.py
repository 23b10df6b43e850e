"""Loading: really four bits where that is promised, and the serving precision where models are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_pipeline.models import loading
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.hardware import GPU_SHARE
from finetune_pipeline.models.loading import (
    OneDnnLinear,
    asked_in,
    load_for_prediction,
    load_for_training,
    native_bfloat16,
    onednn_is_there,
)
from finetune_pipeline_tests.tiny_model import make_tiny_model

CPU = torch.device("cpu")


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 40)[None]).logits.float()


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_four_bit_storage_whatever_the_compute_dtype(tiny: Path, compute: torch.dtype) -> None:
    model, facts = load_for_training(tiny, "four_bit", compute, CPU)
    assert facts["quantized_modules"] == 14  # seven linear layers in each of two blocks
    linear = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128)
    other = 400 * 64 + 5 * 64
    assert facts["parameters"] == facts["bf16_bytes"] // 2
    assert linear + other <= facts["parameters"] <= linear + other + 64  # rotary tables are buffers
    assert linear / 2 < facts["by_kind"]["quantized"] < linear * 0.9  # tiny blocks: constants weigh more than usual
    assert 2 * other <= facts["by_kind"]["other"] <= 2 * other + 256  # 16 bits, tied embedding once
    assert _logits(model).isfinite().all()


def test_computing_in_float32_really_does(tiny: Path) -> None:
    model, _ = load_for_training(tiny, "four_bit", torch.float32, CPU)
    seen = []
    model.model.layers[1].mlp.register_forward_hook(
        lambda _m, inputs, output: seen.extend([inputs[0].dtype, output.dtype])
    )
    logits = model(input_ids=torch.arange(3, 9)[None]).logits
    assert seen == [torch.float32] * 2 and logits.dtype == torch.float32


@pytest.mark.parametrize(("holds", "dtype", "ratio"), [("compute", torch.bfloat16, 1), ("float32", torch.float32, 2)])
def test_other_methods_get_a_frozen_unquantized_base(tiny: Path, holds: str, dtype: torch.dtype, ratio: int) -> None:
    model, facts = load_for_training(tiny, holds, torch.bfloat16, CPU)
    assert {p.dtype for p in model.parameters()} == {dtype} and not any(p.requires_grad for p in model.parameters())
    assert facts["quantized_modules"] == 0 and ratio <= facts["ratio"] < ratio + 0.01, "tied weights count once"


def test_a_prefix_is_served_in_front_of_its_base(tiny: Path, tmp_path: Path) -> None:
    from peft import PrefixTuningConfig, get_peft_model

    before = _logits(load_for_prediction(tiny, CPU))
    torch.manual_seed(0)
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    get_peft_model(load_for_prediction(tiny, CPU), config).save_pretrained(tmp_path / "prefix")
    after = _logits(load_for_prediction(tiny, CPU, tmp_path / "prefix"))
    assert after.shape == before.shape and not torch.allclose(after, before)


def test_a_model_is_asked_in_what_it_is_served_in(tiny: Path, tmp_path: Path) -> None:
    wide = make_tiny_model(tmp_path / "wide")
    served = torch.bfloat16 if native_bfloat16(CPU) else torch.float32
    assert asked_in(tiny, "serving", CPU) == served and asked_in(tiny, "float32", CPU) == torch.float32
    assert asked_in(wide, "serving", CPU) == torch.float32, "bfloat16 would round away what was stored in float32"
    exact, short = load_for_prediction(tiny, CPU), load_for_prediction(tiny, CPU, precision="serving")
    assert exact.dtype == torch.float32 and short.dtype == served
    assert (_logits(exact) - _logits(short)).abs().mean() < 0.02


@pytest.mark.skipif(not onednn_is_there(), reason="this build of PyTorch has no oneDNN")
def test_products_of_onednn_are_those_of_a_linear_layer_on_slices_too() -> None:
    torch.manual_seed(0)
    layer, rows = torch.nn.Linear(32, 48).bfloat16(), torch.randn(5, 7, 32).bfloat16()
    expected = layer(rows[:, -1:]).float()
    layer.__class__ = OneDnnLinear
    with torch.no_grad():
        product = layer(rows[:, -1:])
    assert product.dtype == torch.bfloat16 and product.shape == (5, 1, 48)
    assert torch.allclose(product.float(), expected, atol=0.02)


def test_validation_does_not_repack_the_weights(tiny: Path) -> None:
    model, _ = load_for_training(tiny, "four_bit", torch.bfloat16, CPU)
    weight = model.model.layers[0].mlp.up_proj.weight
    before = weight.data.clone()
    model.eval()
    _logits(model)
    assert torch.equal(weight.data, before)
    assert not getattr(weight.quant_state, "packing_format_for_cpu", False)


def test_what_ends_an_answer_is_read_from_the_generation_config(tiny: Path, tmp_path: Path) -> None:
    import json
    import shutil

    from finetune_pipeline.models.chat import end_ids

    copy = shutil.copytree(tiny, tmp_path / "more_ends")
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    assert end_ids(load_tokenizer(copy)) == {0, 2}
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}))
    assert end_ids(load_tokenizer(copy)) == {0, 2}
    (copy / "generation_config.json").unlink()
    assert end_ids(load_tokenizer(copy)) == {2}


def test_a_comparison_leaves_a_gpu_that_is_too_small_for_float32(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = 4 * sum(p.numel() for p in load_for_prediction(tiny, CPU).parameters())
    monkeypatch.setattr(loading, "pick_device", lambda: torch.device("cuda:0"))
    for free, device in ((int(weights / GPU_SHARE) + 1, "cuda:0"), (int(weights / GPU_SHARE) - 10, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, free))
        assert loading.device_with_room(tiny) == torch.device(device)
