"""Loading: really four bits where that is promised, and the serving precision where models are asked."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from finetune_pipeline.models.chat import end_ids, load_tokenizer
from finetune_pipeline.models.loading import (
    OneDnnLinear,
    has_onednn,
    inference_dtype,
    load_for_prediction,
    load_for_training,
    native_bfloat16,
)
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.models.architectures import logits

CPU = torch.device("cpu")


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_four_bit_storage_whatever_the_compute_dtype(tiny: Path, compute: torch.dtype) -> None:
    model, facts = load_for_training(tiny, "four_bit", compute, CPU)
    assert facts.quantized_modules == 14  # seven linear layers in each of two blocks
    linear = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128)
    unquantized = 400 * 64 + 5 * 64
    assert facts.parameters == facts.bf16_bytes // 2
    assert linear + unquantized <= facts.parameters <= linear + unquantized + 64  # rotary tables are buffers
    assert linear / 2 < facts.by_kind.quantized < linear * 0.9  # tiny blocks: constants weigh more than usual
    assert 2 * unquantized <= facts.by_kind.other <= 2 * unquantized + 256  # 16 bits, tied embedding once
    layer, dtypes = model.model.layers[1].mlp, []
    layer.register_forward_hook(lambda _m, inputs, output: dtypes.extend([inputs[0].dtype, output.dtype]))
    before = layer.up_proj.weight.data.clone()
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=torch.arange(3, 40)[None]).logits
    assert logits.isfinite().all() and [*dtypes, logits.dtype] == [compute] * 3
    assert torch.equal(layer.up_proj.weight.data, before), "a validation pass must not repack the weights"
    assert not getattr(layer.up_proj.weight.quant_state, "packing_format_for_cpu", False)


def test_a_model_is_asked_in_what_it_is_served_in(tiny: Path, tmp_path: Path) -> None:
    wide = make_tiny_model(tmp_path / "wide")
    served = torch.bfloat16 if native_bfloat16(CPU) else torch.float32
    assert inference_dtype(tiny, "serving", CPU) == served and inference_dtype(tiny, "float32", CPU) == torch.float32
    assert inference_dtype(wide, "serving", CPU) == torch.float32, (
        "bfloat16 would round away what was stored in float32"
    )
    exact, rounded = load_for_prediction(tiny, CPU), load_for_prediction(tiny, CPU, precision="serving")
    assert exact.dtype == torch.float32 and rounded.dtype == served
    assert (logits(exact) - logits(rounded)).abs().mean() < 0.02


@pytest.mark.skipif(not has_onednn(), reason="this build of PyTorch has no oneDNN")
def test_products_of_onednn_are_those_of_a_linear_layer_on_slices_too() -> None:
    torch.manual_seed(0)
    layer, rows = torch.nn.Linear(32, 48).bfloat16(), torch.randn(5, 7, 32).bfloat16()
    expected = layer(rows[:, -1:]).float()
    layer.__class__ = OneDnnLinear
    layer.pack(keep=False)
    with torch.no_grad():
        product = layer(rows[:, -1:])
    assert layer.weight.is_meta and not [n for n, _ in layer.named_parameters() if n == "weight"], "stored once"
    assert product.dtype == torch.bfloat16 and product.shape == (5, 1, 48)
    assert torch.allclose(product.float(), expected, atol=0.02)


@pytest.mark.parametrize(("message", "ends"), [([2, 0], {0, 2}), (0, {0, 2}), (None, {2, 3})])
def test_what_ends_an_answer_is_read_from_the_generation_config(tiny, tmp_path, message, ends) -> None:
    path = shutil.copytree(tiny, tmp_path / "more_ends") / "generation_config.json"
    config = path.with_name("config.json")  # read by servers without the other
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": [2, 3]}))
    path.unlink() if message is None else path.write_text(json.dumps({"eos_token_id": message}))
    assert end_ids(load_tokenizer(path.parent)) == ends
