"""Packed batches give the loss and the gradients of padded ones, or are not used."""

from typing import Any

import pytest
import torch

from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.planning.shape import model_shape
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.training import attention
from finetune_pipeline.training.fused import fuse
from finetune_pipeline.training.model import build
from finetune_pipeline.training.packing import (
    packed_batch,
    packed_collator,
    padded_batch,
    supports_shared_prefix,
)
from finetune_pipeline.training.prefix_tree import Layout, buckets, shared_by_all
from finetune_pipeline_tests.unit.models.architectures import make_model
from finetune_pipeline_tests.unit.training.models import (
    adapted,
    dialogues,
    loss_and_gradients,
    nested,
    rows,
    several_prompts,
    trainable,
)

SETS = {
    "one prompt": lambda: rows(6, 10),
    "nothing in common": lambda: rows(4, 0, seed=5),
    "several prompts": several_prompts,
    "nested prompts": nested,
    "dialogues": dialogues,
    "one row": lambda: rows(1, 8),
    # the last position of the prefix predicts several different tokens
    "nothing but the answer": lambda: [
        {"id": str(i), "ids": [7, 8, 9, 20 + i, 2], "loss": [False, False, False, True, True]} for i in range(8)
    ],
}


@pytest.mark.parametrize(
    ("name", "method", "kind"),
    [
        *(("llama", method, "nested prompts") for method in ("lora", "full", "prefix", "prompt")),
        *(("qwen3", "lora", kind) for kind in SETS),
        *(("gemma3", method, "several prompts") for method in ("lora", "full", "prefix", "prompt")),
        ("gemma3", "prefix", "dialogues"),
    ],
)
def test_same_loss_and_gradients_packed_and_padded(name: str, method: str, kind: str) -> None:
    model, batch = trainable(name, method), SETS[kind]()
    padded_loss, padded = loss_and_gradients(model, padded_batch(batch))
    good, why = supports_shared_prefix(model)
    assert good, why
    in_one = packed_collator(model)(batch)
    packed_loss, packed = loss_and_gradients(model, in_one)
    assert packed_loss == pytest.approx(padded_loss, rel=1e-5)
    assert padded.norm() > 1e-3
    assert (packed - padded).norm() / padded.norm() < 1e-5
    if kind != "nothing in common" or method == "prompt":
        leading = in_one["position_ids"].numel() - in_one["input_ids"].numel()
        assert (in_one["position_ids"].numel() < sum(leading + len(r["ids"]) for r in batch)) == (len(batch) > 1)


@pytest.mark.parametrize(
    ("architecture", "method", "packs"),
    [
        *((name, "lora", True) for name in ("mistral", "phi3", "gpt_neox", "mixtral", "opt", "gemma3_with_images")),
        *((name, "lora", False) for name in ("gemma2", "gpt_oss", "stablelm", "falcon", "deepseek_v3", "nemotron")),
        *((name, "lora", False) for name in ("lfm2", "qwen3_next")),
        *(("qwen3_moe", method, True) for method in ("full", "prompt", "prefix")),
        ("gemma3_with_images", "qlora", True),
        ("qwen2", "qlora", True),
        ("phi", "qlora", True),  # LayerNorm, in 16 bits, takes no inputs in 32
        ("falcon_h1", "full", False),
    ],
)
def test_architectures_learn_from_the_loss_of_each_row_alone(architecture, method, packs, tmp_path) -> None:
    base = make_model(tmp_path / "base", architecture, norms=0.2)
    sections = {"lora": {"r": 4, "dropout": 0.0}, "prefix": {"tokens": 5}, "prompt": {"tokens": 6}}
    settings = TrainingSpec.model_validate({"method": method, "gradient_checkpointing": False, **sections})
    model = build(base, settings, torch.float32, torch.device("cpu"), load_tokenizer(base), "sort the ticket").model
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.eval()
    batch = nested()
    losses = []
    with torch.no_grad():
        for row in batch:
            logits = model(input_ids=torch.tensor([row["ids"]])).logits[0, -len(row["ids"]) :]
            learned = torch.tensor(row["loss"])[1:]
            targets = torch.tensor(row["ids"])[1:][learned]
            losses.append(torch.nn.functional.cross_entropy(logits[:-1][learned], targets, reduction="none"))
    alone = torch.cat(losses).mean().item()
    padded_loss, padded = loss_and_gradients(model, padded_batch(batch))
    assert padded_loss == pytest.approx(alone, rel=1e-4)
    assert supports_shared_prefix(model)[0] is packs is model_shape(base).packs, "the plan counts the same batches"
    fuse(model)
    collator = packed_collator(model) if packs else padded_batch
    loss, gradients = loss_and_gradients(model, collator(batch))
    assert loss == pytest.approx(alone, rel=1e-4)
    assert (gradients - padded).norm() / padded.norm() < 1e-4


def test_prompts_shared_by_some_rows_are_computed_once() -> None:
    batch = nested()
    packed = packed_batch(batch)
    layout = packed["shared_prefix"]
    inner = len(set(layout.parents) - {-1})
    assert layout.lengths[:inner] == [20, 18, 30] and layout.parents[:inner] == [-1, 0, 0]
    assert shared_by_all(batch) == 20 and shared_by_all(rows(4, 0, seed=5)) == 0
    tokens = sum(len(r["ids"]) for r in batch) - (20 * 6 + 18 * 2 + 30 * 2)
    # few different sizes, so that oneDNN need not compile kernels in every step; no position beyond the rows' own
    assert packed["input_ids"].shape[1] == tokens + 9 and (tokens + 9) % 16 == 0
    assert {longest % 16 for _, _, longest in buckets(layout.lengths, layout.parents, 0)} == {0}
    assert packed["position_ids"].max() == max(len(r["ids"]) for r in batch) - 1


def test_a_model_that_does_not_tell_its_windows_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trainable("gemma3", "lora")
    for layer in model.get_base_model().model.layers:
        monkeypatch.setattr(layer.self_attn, "sliding_window", None)
    good, why = supports_shared_prefix(model)
    assert not good and "each layer's sliding window" in why
    assert model.config._attn_implementation == "sdpa"


def test_an_attention_that_lets_rows_see_each_other_fails_the_trial(tiny, monkeypatch) -> None:
    model = adapted(tiny)
    original = attention.attend

    def leaky(module: Any, query: Any, *arguments: Any, shared_prefix: Any = None, **more: Any) -> Any:
        if shared_prefix is not None:  # every row takes the whole packed sequence for its own
            shared_prefix = Layout([query.shape[2]], [-1], windows=shared_prefix.windows)
        return original(module, query, *arguments, shared_prefix=shared_prefix, **more)

    monkeypatch.setattr(attention, "attend", leaky)
    try:
        good, why = supports_shared_prefix(model)
    finally:
        monkeypatch.undo()
        attention.register()
    assert not good and "other logits" in why
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["softcap", "s_aux"])
def test_scores_bent_by_something_else_are_refused(name: str) -> None:
    q = torch.randn(1, 2, 3, 4)
    with pytest.raises(ValueError, match=name):
        attention.attend(torch.nn.Module(), q, q, q, None, shared_prefix=Layout([3], [-1]), **{name: 30.0})
