"""Sizes read from files are those of the models that are built; how much memory is free is read from what limits it. The formula
against the peak of real steps: unit/training/test_rehearsal.py."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.planning import memory
from finetune_pipeline.planning.memory import (
    MIB,
    Batch,
    available_memory,
    gpu_memory,
    training_memory,
    weight_bytes,
)
from finetune_pipeline.planning.shape import model_shape
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.training.model import build
from finetune_pipeline_tests.unit.models.architectures import make_model

ARCHITECTURES = ("llama", "qwen3", "gemma3")
CPU = torch.device("cpu")
Models = dict[tuple[str, bool], Path]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """By architecture, and by whether the head is tied to the embeddings."""
    place = tmp_path_factory.mktemp("models")
    variants = itertools.product(ARCHITECTURES, (True, False))
    return {(name, tied): make_model(place / f"{name}_{tied}", name, tied=tied) for name, tied in variants}


def settings_of(method: str, **more: Any) -> TrainingSpec:
    sections = {"lora": {"r": 4}, "prefix": {"tokens": 6}, "prompt": {"tokens": 7}}
    result = {**sections, "method": method, "gradient_checkpointing": False, **more}
    return TrainingSpec.model_validate(result)


def trained(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_parameter_is_counted_once(models: Models, name: str, tied: bool) -> None:
    shape = model_shape(models[name, tied])
    model = AutoModelForCausalLM.from_pretrained(models[name, tied])
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert (shape.head == 0) == tied and shape.stored_bytes == 4 * shape.parameters


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["gemma3_with_images", "mixtral", "gpt_oss", "opt", "gpt_neox", "phi3", "lfm2"])
def test_what_adapters_train_is_known_before(tmp_path: Path, name: str, tied: bool) -> None:
    folder = make_model(tmp_path / "base", name, tied=tied)
    shape, settings = model_shape(folder), settings_of("lora", precision="float32")
    model = build(folder, settings, torch.float32, CPU, load_tokenizer(folder), "").model
    assert METHODS["lora"].trainable(settings, shape) == trained(model)
    assert shape.parameters == sum(p.numel() for p in model.parameters()) - trained(model)
    assert shape.layers == 2


def test_adapters_on_some_layers_are_counted(models: Models) -> None:
    folder, lora = models["gemma3", True], {"r": 4, "target_modules": ["q_proj", "self_attn.v_proj", "down_proj"]}
    settings = settings_of("lora", lora=lora, precision="float32")
    built = build(folder, settings, torch.float32, CPU, load_tokenizer(folder), "")
    assert METHODS["lora"].trainable(settings, model_shape(folder)) == trained(built.model)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_trains_and_holds_is_known_before(models: Models, method: str) -> None:
    folder, shape = models["llama", True], model_shape(models["llama", True])
    for precision in ("float32", "bfloat16"):
        settings, compute = settings_of(method, precision=precision), getattr(torch, precision)
        built = build(folder, settings, compute, CPU, load_tokenizer(folder), "the task")
        assert METHODS[method].trainable(settings, shape) == trained(built.model)
        # quantization constants weigh more where layers are tiny
        close = pytest.approx(built.weights.bytes_loaded, rel=0.35 if method == "qlora" else 0.001)
        assert weight_bytes(shape, METHODS[method], compute.itemsize) == close


def test_bfloat16_on_a_cpu_takes_compiled_kernels_for_each_size_of_batches(models: Models) -> None:
    shape, settings, batch = (
        model_shape(models["llama", True]),
        settings_of("lora"),
        Batch(tokens=64, longest=8, logits=8),
    )

    def planned(sizes: int, width: int = 2, device: str = "cpu") -> int:
        return training_memory(shape, settings, batch, width=width, device=device, sizes=sizes).total // MIB

    assert [planned(sizes) - planned(1) for sizes in (5, 20, 90)] == [200, 950, 1024 - 50]
    assert planned(20, width=4) == planned(1, width=4) and planned(20, device="cuda") == planned(1, device="cuda")


def test_the_smallest_of_what_limits_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FINETUNE_MEMORY_GIB", raising=False)
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    free = psutil.virtual_memory().available
    assert available_memory("cpu") == pytest.approx(free, rel=0.5), "no such control group"
    for name, text in {"max": "500000", "current": "300000", "stat": "anon 1\ninactive_file 100000\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert available_memory("cpu") == 300_000
    (tmp_path / "memory.current").write_text("700000")
    assert available_memory("cpu") == 0, "the limit was lowered below what is used"
    (tmp_path / "memory.current").write_text("300000")
    (tmp_path / "memory.stat").write_text("anon 1\n")
    assert available_memory("cpu") == 200_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory("cpu") > 300_000
    monkeypatch.setenv("FINETUNE_MEMORY_GIB", "1.5")
    assert available_memory("cpu") == available_memory("cuda:0") == 3 * 2**29
    for wrong in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("FINETUNE_MEMORY_GIB", wrong)
        with pytest.raises(OutsideError, match="not a number of GiB"):
            available_memory("cpu")


def test_free_memory_of_the_gpus_one_may_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(text: str) -> None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    answers("echo '0, GPU-5ad1, 81000'; echo '1, GPU-77f0, 40000'; echo '2, GPU-9c, [N/A]'")
    expected = {"1": [40000], "GPU-77f0": [40000], " GPU-77 , GPU-5ad1": [40000, 81000], "1,-1,0": [40000]}
    assert gpu_memory() == [81000 * 2**20, 40000 * 2**20]
    for value, mib in expected.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert gpu_memory() == [n * 2**20 for n in mib], value
    for value in ("", "-1", "NoDevFiles", "2", "0,3", "MIG-5ad1", "GPU-0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        with pytest.raises(OutsideError, match=f"CUDA_VISIBLE_DEVICES='{value}' cannot be read(.|\n)*set FINETUNE_MEM"):
            gpu_memory()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for text in ("exit 9", "echo 'No devices were found'"):
        answers(text)
        with pytest.raises(OutsideError, match="cannot be read"):
            gpu_memory()


def test_the_width_of_heads_is_the_configurations_where_it_says_one(models: Models, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models["llama", True], tmp_path / "model"))
    config = read_json(folder / "config.json")
    of_hidden = config["hidden_size"] // config["num_attention_heads"]
    for written, expected in ((of_hidden + 8, of_hidden + 8), (None, of_hidden)):
        write_json(folder / "config.json", config | {"head_dim": written})
        assert model_shape(folder).head_dim == expected


def test_rows_share_a_forward_pass_only_where_attention_is_plain(models: Models, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models["llama", True], tmp_path / "model"))
    config = read_json(folder / "config.json")
    assert model_shape(folder).packs
    for key, value in (
        ("attention_dropout", 0.1),
        ("attn_logit_softcapping", 50.0),
        ("layer_types", ["full_attention", "linear_attention"]),
    ):
        write_json(folder / "config.json", config | {key: value})
        assert not model_shape(folder).packs, key
    write_json(folder / "config.json", config | {"layer_types": ["full_attention", "sliding_attention"]})
    assert model_shape(folder).packs
