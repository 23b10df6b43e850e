"""Packed batches give the loss and the gradients of padded ones, or are not used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_pipeline.training import attention
from finetune_pipeline.training.shared_prefix import (
    PackedCollator,
    PaddedCollator,
    common_prefix,
    logits_to_learn,
    supports_shared_prefix,
)
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.training.models import adapted
from finetune_pipeline_tests.unit.training.rows import loss_and_gradients, rows


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "base")


@pytest.mark.parametrize(("number", "prefix"), [(6, 10), (5, 0), (1, 8), (20, 3)])
def test_same_loss_and_gradients_packed_and_padded(tiny: Path, number: int, prefix: int) -> None:
    model = adapted(tiny)
    batch = rows(number, prefix)
    padded_loss, padded = loss_and_gradients(model, PaddedCollator(2)(batch))
    assert supports_shared_prefix(model)[0]
    collator = PackedCollator()
    packed_loss, packed = loss_and_gradients(model, collator(batch))
    assert packed_loss == pytest.approx(padded_loss, rel=1e-5)
    assert (packed - padded).norm() / padded.norm() < 1e-4
    if number > 1:
        assert common_prefix(batch) == prefix
        assert collator.saved_tokens == prefix * (number - 1)


def test_the_first_learned_token_may_follow_the_prefix_directly(tiny: Path) -> None:
    """All rows share their whole prompt: the last prefix position predicts several different tokens."""
    model = adapted(tiny)
    batch = [{"id": str(i), "ids": [7, 8, 9, 20 + i, 2], "loss": [False, False, False, True, True]} for i in range(3)]
    padded_loss, padded = loss_and_gradients(model, PaddedCollator(2)(batch))
    supports_shared_prefix(model)
    packed = PackedCollator()(batch)
    assert packed["logit_positions"].tolist().count(2) == 3
    packed_loss, gradients = loss_and_gradients(model, packed)
    assert packed_loss == pytest.approx(padded_loss, rel=1e-5)
    assert (gradients - padded).norm() / padded.norm() < 1e-4


def test_the_prefix_ends_before_loss_and_before_the_shortest_row() -> None:
    def row(ids: list[int], learned: int) -> dict[str, Any]:
        return {"id": "r", "ids": ids, "loss": [i >= learned for i in range(len(ids))]}

    assert common_prefix([row([1, 2, 3, 4], 3), row([1, 2, 3, 5], 3)]) == 3
    assert common_prefix([row([1, 2, 3, 4], 2), row([1, 2, 3, 4], 2)]) == 2  # equal rows: loss bounds it
    assert common_prefix([row([1, 2], 9), row([1, 2, 3], 9)]) == 1  # a token is left to the shortest row
    assert common_prefix([row([5, 2], 1), row([1, 2], 1)]) == 0
    assert common_prefix([row([1, 2, 3], 2)]) == 2


def test_labels_are_the_learned_tokens(tiny: Path) -> None:
    batch = rows(4)
    expected = sorted(t for r in batch for t, learned in zip(r["ids"], r["loss"], strict=True) if learned)
    for collator in (PackedCollator(), PaddedCollator(2)):
        assert sorted(collator(batch)["labels"].tolist()) == expected
    packed = PackedCollator()(batch)
    assert packed["position_ids"].max().item() == max(len(r["ids"]) for r in batch) - 1
    assert sorted(packed["row_ids"]) == [f"row{i}" for i in range(4)]


def test_sliding_windows_are_not_packed(tmp_path: Path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=4,
    )
    good, why = supports_shared_prefix(MistralForCausalLM(config))
    assert not good and "full attention" in why


def test_an_attention_that_lets_rows_see_each_other_fails_the_trial(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(tiny)
    right = attention.attend

    def leaky(
        module: Any, query: Any, key: Any, value: Any, mask: Any, shared_prefix: Any = None, **kwargs: Any
    ) -> Any:
        if shared_prefix is not None:  # every row takes the whole packed sequence for its own
            shared_prefix = attention.Layout(0, [query.shape[2]])
        return right(module, query, key, value, mask, shared_prefix=shared_prefix, **kwargs)

    monkeypatch.setattr(attention, "attend", leaky)
    try:
        good, why = supports_shared_prefix(model)
    finally:
        monkeypatch.undo()
        attention.register()
    assert not good and "other logits" in why
    assert model.config._attn_implementation == "sdpa"


def test_other_calls_of_the_model_are_unchanged(tiny: Path) -> None:
    model = adapted(tiny).eval()
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        supports_shared_prefix(model)
        torch.testing.assert_close(model(input_ids=ids).logits, before)
        assert logits_to_learn(model, PackedCollator()(rows(3))).shape[1] == 400
