"""Merging: PEFT's own result in float32, one rounding in bfloat16, and a refusal of everything else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.loading import load_for_prediction
from finetune_pipeline.models.merging import merge
from finetune_pipeline.training.faults import JobError
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.models.adapters import make_adapter

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "base")


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_equals_peft_in_float32(base: Path, tmp_path: Path, rank_stabilised: bool) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", use_rslora=rank_stabilised)
    facts = merge(base, adapter, tmp_path / "out")
    expected = PeftModel.from_pretrained(load_for_prediction(base, CPU), adapter).merge_and_unload().state_dict()
    written = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert facts["merged_tensors"] == 14
    assert facts["scaling"] == pytest.approx(4.0 if rank_stabilised else 2.0)
    for name, tensor in written.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
    untouched = load_file(base / "model.safetensors")
    assert torch.equal(written["model.embed_tokens.weight"], untouched["model.embed_tokens.weight"])
    assert not torch.equal(written["model.layers.0.mlp.up_proj.weight"], untouched["model.layers.0.mlp.up_proj.weight"])


def test_bfloat16_is_rounded_once_from_float32(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base", dtype="bfloat16")
    adapter = make_adapter(base, tmp_path / "adapter")
    facts = merge(base, adapter, tmp_path / "out")
    name = "model.layers.1.self_attn.q_proj"
    parts = load_file(adapter / "adapter_model.safetensors")
    change = 2.0 * parts[f"base_model.model.{name}.lora_B.weight"] @ parts[f"base_model.model.{name}.lora_A.weight"]
    expected = (load_file(base / "model.safetensors")[f"{name}.weight"].float() + change).bfloat16()
    assert torch.equal(load_file(tmp_path / "out" / "model" / "model.safetensors")[f"{name}.weight"], expected)
    assert facts["dtype"] == "bfloat16"


def test_weights_in_several_files_are_merged_file_by_file(base: Path, tmp_path: Path) -> None:
    split = shutil.copytree(base, tmp_path / "split")
    (split / "model.safetensors").unlink()
    load_for_prediction(base, CPU).save_pretrained(split, max_shard_size="150KB")
    assert len(list(split.glob("*.safetensors"))) > 1
    adapter = make_adapter(base, tmp_path / "adapter")
    merge(split, adapter, tmp_path / "many")
    merge(base, adapter, tmp_path / "one")
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        many, one = (load_for_prediction(tmp_path / n, CPU)(input_ids=ids).logits for n in ("many", "one"))
    assert torch.equal(many, one)


def test_the_merged_folder_is_whole_and_may_be_moved(base: Path, tmp_path: Path) -> None:
    facts = merge(base, make_adapter(base, tmp_path / "adapter"), tmp_path / "making")
    moved = (tmp_path / "making").rename(tmp_path / "done")
    assert model_folder(moved) == (moved / "model").resolve()
    names = {p.name for p in (moved / "model").iterdir()}
    assert (
        {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"}
        <= names
        == set(facts["files"])
    )


def test_a_quantized_base_is_refused(base: Path, tmp_path: Path) -> None:
    quantized = shutil.copytree(base, tmp_path / "quantized")
    told = json.loads((quantized / "config.json").read_text())
    (quantized / "config.json").write_text(json.dumps({**told, "quantization_config": {"load_in_4bit": True}}))
    with pytest.raises(JobError, match="quantized"):
        merge(quantized, make_adapter(base, tmp_path / "adapter"), tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"rank_pattern": {"q_proj": 2}},
        {"peft_type": "LOHA"},
        {"modules_to_save": ["lm_head"]},
    ],
)
def test_other_adapters_are_refused(base: Path, tmp_path: Path, change: dict[str, object]) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    told = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**told, **change}))
    with pytest.raises(JobError, match="only plain LoRA"):
        merge(base, adapter, tmp_path / "out")


def test_an_adapter_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    deeper = make_tiny_model(tmp_path / "deeper", layers=3)
    with pytest.raises(JobError, match=r"layers\.2"):
        merge(base, make_adapter(deeper, tmp_path / "adapter"), tmp_path / "out")


def test_a_tensor_that_is_no_lora_matrix_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({**tensors, "base_model.model.lm_head.weight": torch.zeros(4, 4)}, adapter / "adapter_model.safetensors")
    with pytest.raises(JobError, match="lm_head"):
        merge(base, adapter, tmp_path / "out")
