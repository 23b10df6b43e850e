"""Sizes read from files are those of the models that are built: for every method, architecture and kind of head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.planning.shape import model_shape
from finetune_pipeline.spec import methods
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.training.model import build
from finetune_pipeline.training.rows import task_text
from finetune_pipeline_tests.tiny_model import write_tiny_examples
from finetune_pipeline_tests.unit.models.architectures import make_model

ARCHITECTURES = ("llama", "qwen3", "gemma3")
METHODS: dict[str, dict[str, Any]] = {
    "qlora": {},
    "lora": {},
    "some layers": {"method": "lora", "lora": {"target_modules": ["q_proj", "self_attn.v_proj", "down_proj"]}},
    "full": {},
    "prefix": {"prefix": {"tokens": 6}},
    "prompt": {"prompt": {"tokens": 7}},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    place = tmp_path_factory.mktemp("models")
    return {
        (name, tied): make_model(place / f"{name}_{tied}", name, tied=tied)
        for name in ARCHITECTURES
        for tied in (True, False)
    }


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_parameter_is_counted_once(models: dict[tuple[str, bool], Path], name: str, tied: bool) -> None:
    folder = models[name, tied]
    shape = model_shape(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert (shape.head == 0) == tied
    assert shape.stored_bytes == 4 * shape.parameters
    norms = [m for n, m in model.named_modules() if type(m).__name__.endswith("RMSNorm") and ".0." in n]
    widths = [m.weight.numel() for m in norms]
    assert widths.count(shape.hidden) == shape.norms and widths.count(16) == shape.head_norms


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_trains_is_what_is_built(
    models: dict[tuple[str, bool], Path], tmp_path: Path, method: str
) -> None:
    folder = models["gemma3", True]
    examples = read_examples(write_tiny_examples(tmp_path / "rows.jsonl", range(6)))
    chosen = {"method": method, **METHODS[method], "precision": "float32"}
    settings = TrainingSpec.model_validate(chosen).model_dump()
    built = build(folder, settings, torch.float32, torch.device("cpu"), load_tokenizer(folder), task_text(examples))
    real = sum(p.numel() for p in built.model.parameters() if p.requires_grad)
    assert methods.METHODS[settings["method"]].trainable(settings, model_shape(folder)) == real
