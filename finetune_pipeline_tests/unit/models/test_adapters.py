"""What an adapter folder is, and what of it cannot be merged: everything at once, with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_pipeline.faults import JobError
from finetune_pipeline.models.adapters import adapter_kind, read_adapter

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


def write(folder: Path, tensors: dict[str, tuple[int, ...]] | None = None, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shapes = tensors or {f"{LAYER}.lora_A.weight": (4, 8), f"{LAYER}.lora_B.weight": (6, 4)}
    save_file({n: torch.zeros(s) for n, s in shapes.items()}, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": 4, "lora_alpha": 8} | config
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


def test_a_plain_adapter_and_its_scaling(tmp_path: Path) -> None:
    adapter = read_adapter(write(tmp_path / "a"))
    assert list(adapter.changes) == ["model.layers.0.self_attn.q_proj.weight"] and adapter.scaling == 2.0
    assert read_adapter(write(tmp_path / "b", use_rslora=True)).scaling == 4.0
    with pytest.raises(JobError, match=r"q_proj.*which is not rank 2"):
        read_adapter(write(tmp_path / "c", r=2))


def test_everything_that_is_not_understood_is_named_at_once(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "a",
        {
            f"{LAYER}.lora_A.weight": (4, 8),
            "base_model.model.lm_head.weight": (4, 4),
            "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": (1, 4),
        },
        trainable_token_indices=[3],
        rank_pattern={"q_proj": 2},
        alora_invocation_tokens=[1, 2],
    )
    with pytest.raises(JobError) as caught:
        read_adapter(folder)
    told = str(caught.value)
    for part in (
        "trainable_token_indices = [3]",
        "alora_invocation_tokens",
        "rank_pattern = {'q_proj': 2}",
        "lm_head.weight', which is no LoRA matrix",
        "trainable_tokens_delta",
        "only one of the two matrices for 'model.layers.0.self_attn.q_proj'",
        "fix: ",
    ):
        assert part in told


@pytest.mark.parametrize("start", ["pissa", "loftq"])
def test_a_start_that_changed_the_base_is_refused(tmp_path: Path, start: str) -> None:
    with pytest.raises(JobError, match="path_initial_model_for_weight_conversion"):
        read_adapter(write(tmp_path / "a", init_lora_weights=start))


def test_dora_needs_its_magnitudes_and_others_must_not_have_them(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="use_dora is True, but .* has no magnitude"):
        read_adapter(write(tmp_path / "a", use_dora=True))
    shapes = {
        f"{LAYER}.lora_A.weight": (4, 8),
        f"{LAYER}.lora_B.weight": (6, 4),
        f"{LAYER}.lora_magnitude_vector": (6,),
    }
    with pytest.raises(JobError, match="use_dora is False, but .* has a magnitude"):
        read_adapter(write(tmp_path / "b", shapes))
    assert read_adapter(write(tmp_path / "c", shapes, use_dora=True)).changes


@pytest.mark.parametrize(("kind", "word"), [("PROMPT_TUNING", "added tokens"), ("PREFIX_TUNING", "export")])
def test_soft_prompts_have_nothing_to_merge(tmp_path: Path, kind: str, word: str) -> None:
    with pytest.raises(JobError, match=f"changes no weight.*\n.*{word}"):
        read_adapter(write(tmp_path / "a", peft_type=kind))


def test_kinds(tmp_path: Path) -> None:
    assert adapter_kind(write(tmp_path / "a")) == "lora"
    assert adapter_kind(write(tmp_path / "b", peft_type="PROMPT_TUNING")) == "prompt"
    assert adapter_kind(write(tmp_path / "c", peft_type="PREFIX_TUNING")) == "prefix"
    full = tmp_path / "full"
    full.mkdir()
    (full / "config.json").write_text("{}")
    with pytest.raises(JobError, match="neither an adapter"):
        adapter_kind(full)
    save_file({"w": torch.zeros(1)}, full / "model.safetensors")
    assert adapter_kind(full) == "full"
    with pytest.raises(JobError, match="is a whole model, no adapter"):
        read_adapter(full)
    with pytest.raises(JobError, match="of the type LOHA"):
        adapter_kind(write(tmp_path / "d", peft_type="LOHA"))


def test_weights_that_are_not_safetensors_are_not_looked_at(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(tensors, folder / "adapter_model.bin")
    with pytest.raises(JobError, match=r"holds no adapter_model\.safetensors"):
        read_adapter(folder)
