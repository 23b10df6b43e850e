"""Planned memory by hand, from a model small enough to check."""

from dataclasses import replace
from typing import Any

import pytest

from finetune_pipeline.planning.answering import PromptBatch, answering_memory, comparison_memory
from finetune_pipeline.planning.memory import MIB, Batch, checkpoints, training_memory, weight_bytes
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.methods.base import Linear, ModelShape
from finetune_pipeline.spec.training import TrainingSpec

SHAPE = ModelShape(
    layers=2,
    hidden=8,
    inner=20,
    vocabulary=100,
    heads=4,
    key_heads=2,
    head_dim=3,
    linears=(Linear("layers.0.up_proj", 8, 20), Linear("layers.1.up_proj", 8, 20)),
    embedding=800,
    head=0,
    other=30,
    packs=True,
    stored_bytes=2 * 1150,
)
"""A model of 320 + 800 + 30 parameters in bfloat16."""
BATCH = Batch(rows=3, tokens=90, longest=30, logits=12)
FLOAT, HALF = 4, 2


def settings(method: str, **more: Any) -> TrainingSpec:
    return TrainingSpec.model_validate({"method": method, "gradient_checkpointing": False, **more})


def test_full_training_by_hand() -> None:
    """14 vectors of the hidden width and 4 of the inner one are saved for each token, and its attention to 30 others by 4 heads;
    in each of 2 blocks, and once more for the backward pass of one."""
    full, block = settings("full"), 90 * FLOAT * (14 * 8 + 4 * 20 + 30 * 4)
    plan = training_memory(SHAPE, full, BATCH, width=FLOAT, tokens=1000)
    assert plan.weights == FLOAT * 1150
    assert plan.trained == (8 + 4 + 4) * 1150, "AdamW's states, gradients, and the best checkpoint beside them"
    assert plan.activations == int(3 * block * 1.06)
    assert plan.logits == int((12 * 100 * (4 + 4) + 100 * 8 * 4) * 1.06), "with the gradient of the head"
    assert plan.overhead == 600 * MIB + 53 * 1000
    parts = [plan.weights, plan.trained, plan.activations, plan.logits, plan.overhead]
    assert plan.total == sum(parts) and plan.in_mib()["total"] == round(sum(parts) / MIB)
    on_gpu = training_memory(SHAPE, full, BATCH, width=FLOAT, device="cuda:0", tokens=1000)
    assert on_gpu.trained == (8 + 4) * 1150 and on_gpu.overhead == 700 * MIB
    in_half = training_memory(SHAPE, full, BATCH, width=HALF, device="cuda:0")
    assert in_half.weights == 4 * 1150, "the trained weights stay in float32"
    assert in_half.logits == int((12 * 100 * (2 + 8) + 100 * 8 * 8) * 1.06), "the head in both dtypes, with gradients"


def test_validation_keeps_one_block_and_no_gradients() -> None:
    full, block = settings("full"), 90 * FLOAT * (14 * 8 + 4 * 20 + 30 * 4)
    plan = training_memory(SHAPE, full, BATCH, width=FLOAT, device="cuda:0", validating=True)
    assert plan.trained == 8 * 1150 and plan.activations == int(block * 1.06)
    assert plan.logits == int(12 * 100 * (4 + 4) * 1.06)


def test_an_adapter_by_hand_with_checkpoints_of_every_block() -> None:
    """Every block's input is saved, and one block computed again at a time."""
    lora = settings("lora", gradient_checkpointing=True)
    method = METHODS["lora"]
    hidden, inner = method.saved_widths(lora)
    block, inputs = 90 * HALF * (hidden * 8 + inner * 20 + 30 * 4), 2 * 90 * 8 * HALF
    plan = training_memory(SHAPE, lora, BATCH, width=HALF, device="cuda:0")
    assert plan.weights == 2 * 1150 and plan.activations == int((2 * block + inputs) * 1.06)
    assert plan.trained == (8 + 4 + 4) * method.trainable(lora, SHAPE), "states, the float32 copy, gradients"
    assert plan.logits == int(12 * 100 * (2 + 8) * 1.06), "no gradient of the head"


def test_a_base_in_four_bits_and_a_classifiers_few_classes() -> None:
    assert weight_bytes(SHAPE, METHODS["qlora"], HALF) == int(320 * (0.5 + 0.127 / 8)) + 2 * 830
    assert training_memory(SHAPE, settings("classifier"), BATCH, width=FLOAT).logits == 0


def test_large_models_are_checkpointed_by_default_and_only_where_the_method_allows_it() -> None:
    large, auto = replace(SHAPE, embedding=2_000_000_000), {"gradient_checkpointing": "auto"}
    assert checkpoints(large, settings("lora", **auto)) and not checkpoints(SHAPE, settings("lora", **auto))
    assert not checkpoints(large, settings("lora")) and checkpoints(
        SHAPE, settings("lora", gradient_checkpointing=True)
    )
    assert not checkpoints(large, settings("prefix")), "prefix tuning passes keys and values that checkpoints lose"


@pytest.mark.parametrize(("new", "scored"), [(50, 6), (5, 40)])
def test_answering_by_hand(new: int, scored: int) -> None:
    """Keys and values of 2 heads of width 3 in 2 layers, of 2 rows: as read, and in a copy with the answer or the labels."""
    grown = max(new, scored)
    plan = answering_memory(SHAPE, PromptBatch(rows=2, prompt=30, shared=10, new=new, scored=scored), width=HALF)
    cache = 2 * 2 * 2 * 3 * 2 * (30 + (30 + grown))
    at_once = 2 * max(20, scored)
    assert plan.activations == int((cache + at_once * (4 * 8 + 3 * 20)) * HALF * 1.06)
    assert plan.logits == int(2 * (1 + 2 * scored) * 100 * HALF * 1.06)
    assert plan.weights == HALF * 1150 and plan.trained == 0 and plan.overhead == 600 * MIB


def test_comparing_a_merge_by_hand() -> None:
    """Two rows with a right answer of 7 and a served one of 5 tokens are read at once, in float32; weights stay as stored, but for
    the output head, which is the largest part."""
    batch = PromptBatch(rows=2, prompt=30, shared=10, new=5, scored=7)
    plan = comparison_memory(SHAPE, batch)
    read = answering_memory(SHAPE, replace(batch, new=0, scored=12), width=FLOAT)
    assert (plan.activations, plan.logits) == (read.activations, read.logits)
    assert plan.weights == 2 * 1150 + FLOAT * 100 * 8
    few_words = replace(SHAPE, vocabulary=2)
    assert comparison_memory(few_words, batch).weights == 2 * 1150 + FLOAT * (320 + 30) // 2, "one of two blocks"
    long = replace(batch, scored=700, new=100)
    assert (
        comparison_memory(SHAPE, long).logits == answering_memory(SHAPE, replace(long, scored=400), width=FLOAT).logits
    ), "at most as many tokens at once as one row has, where that is more than 512"
