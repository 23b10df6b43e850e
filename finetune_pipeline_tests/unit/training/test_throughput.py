"""What a step computes is counted right, and measured apart from validation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune_pipeline.training.shared_prefix import PackedCollator, PaddedCollator
from finetune_pipeline.training.throughput import Meter, ModelShape, matrix_product_rate, model_shape, seen_pairs
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.training.models import adapted, trainable
from finetune_pipeline_tests.unit.training.rows import nested, rows

_LLAMA = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "base")


def test_shape_of_a_model_that_is_trained_whole_and_by_an_adapter() -> None:
    assert model_shape(trainable("llama", "full")) == ModelShape(0, _LLAMA, 400 * 32, True, 2 * 4 * 8)
    adapters = 2 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    assert model_shape(trainable("llama", "lora")) == ModelShape(_LLAMA, adapters, 400 * 32, False, 2 * 4 * 8)


def test_four_bit_weights_count_as_what_they_stand_for(tiny: Path) -> None:
    assert model_shape(adapted(tiny, "qlora")) == model_shape(adapted(tiny, "lora"))


def test_flops_of_the_linear_layers_are_those_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = trainable("llama", "full")
    ids = torch.arange(3, 43)[None]
    with FlopCounterMode(display=False) as counted:
        model(input_ids=ids, labels=ids).loss.backward()
    products = sum(n for op, n in counted.get_flop_counts()["Global"].items() if str(op) == "aten.mm")
    assert products == model_shape(model).flops(40, 40, pairs=0)


def test_flops_of_attention_are_those_torch_counts_for_its_products() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    heads, length, width = 4, 40, 8
    q, k, v = (torch.randn(heads, length, width, requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False) as counted:
        (torch.softmax(q @ k.transpose(1, 2), -1) @ v).sum().backward()
    assert counted.get_total_flops() == ModelShape(0, 0, 0, False, heads * width).flops(0, 0, length * length)


def test_pairs_that_are_seen() -> None:
    batch = nested()
    one_by_one = sum(len(r["ids"]) * (len(r["ids"]) + 1) // 2 for r in batch)
    assert seen_pairs(PaddedCollator(2)(batch)) == one_by_one
    packed = PackedCollator()(batch)
    position = packed["position_ids"][0] + 1  # each token sees as many as its place in its row
    assert seen_pairs(packed) == position.sum().item() < one_by_one


def test_a_meter_counts_tokens_that_are_computed_and_those_that_are_learned() -> None:
    meter = Meter(ModelShape(100, 10, 50, False, 8))
    batch = PackedCollator()(rows(4, 10))
    meter.add(batch, 2.0, 1.0)
    meter.add(batch, 2.0, 1.0)
    facts = meter.facts(torch.float32, torch.device("cpu"))
    assert facts["tokens"] == 2 * batch["input_ids"].numel() and facts["learned"] == 2 * batch["labels"].numel()
    assert facts["flops"] == 2 * (
        batch["input_ids"].numel() * 460 + batch["labels"].numel() * 200 + 12 * 8 * seen_pairs(batch)
    )
    assert facts["flops_per_second"] == round(facts["flops"] / 2.0)
    assert facts["utilisation"] == round(facts["flops_per_second"] / facts["matrix_product_rate"], 3)


def test_a_matrix_product_has_a_rate() -> None:
    assert matrix_product_rate(torch.float32, torch.device("cpu"), size=256, repeats=2) > 1e8
