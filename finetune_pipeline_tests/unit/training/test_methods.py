"""All methods and their variants learn, and are saved as what was validated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.loading import load_for_prediction
from finetune_pipeline.spec import methods
from finetune_pipeline.spec.methods.soft_prompt import SoftPrompt
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.training.rows import encode_split, task_text
from finetune_pipeline.training.sft import train
from finetune_pipeline.training.shared_prefix import PaddedCollator, logits_to_learn
from finetune_pipeline_tests.tiny_model import SYSTEM
from finetune_pipeline_tests.unit.training.jobs import job, make_inputs

METHODS: dict[str, dict[str, Any]] = {
    "qlora": {},
    "lora": {},
    "dora": {"method": "lora", "lora": {"r": 4, "alpha": 8, "dropout": 0.05, "dora": True}},
    "rslora": {"method": "lora", "lora": {"r": 4, "alpha": 8, "dropout": 0.05, "rslora": True}},
    "full": {"learning_rate": 2e-3},
    "prefix": {"learning_rate": 0.05, "prefix": {"tokens": 6}},
    "prompt": {"learning_rate": 0.05, "prompt": {"tokens": 6}},
}
CPU = torch.device("cpu")


def _job(inputs: Path, place: Path, name: str, **changes: Any) -> dict[str, Any]:
    return job(inputs, place, **{"method": name, "epochs": 2, **METHODS[name], **changes})


def _weights(place: Path) -> dict[str, torch.Tensor]:
    file = next((place / "out" / "adapter").glob("*.safetensors"))
    return load_file(file)


@pytest.mark.parametrize(
    ("name", "tensors"),
    [("qlora", 28), ("lora", 28), ("dora", 42), ("rslora", 28), ("prefix", 1), ("prompt", 1)],
)
def test_it_learns_and_what_is_saved_is_what_was_validated(
    inputs: Path, tmp_path: Path, name: str, tensors: int
) -> None:
    facts, _ = train(_job(inputs, tmp_path, name))
    assert facts["best_eval_loss"] < facts["first_eval_loss"] - 0.02
    assert facts["shared_prefix"]["used"], facts["shared_prefix"]["why"]
    trained, folder = facts["trained"], tmp_path / "out" / "adapter"
    assert (trained["folder"], len(trained["tensors"])) == ("adapter", tensors)
    assert trained["bytes"] == (folder / "adapter_model.safetensors").stat().st_size
    assert {t.dtype for t in _weights(tmp_path).values()} == {torch.float32}
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    assert str(tmp_path) not in (folder / "adapter_config.json").read_text()
    assert facts["trainable_parameters"] == sum(t.numel() for t in _weights(tmp_path).values())
    if tensors == 1:
        assert facts["begun"] == {
            "virtual_tokens": 6, "init": "task", "text": f"{SYSTEM}\nbilling\nbug_report\nhow_to",
        }  # fmt: skip
    if not name.startswith("q"):  # their validation loss is on the 4-bit base
        model = PeftModel.from_pretrained(load_for_prediction(inputs / "base", CPU), folder).eval()
        assert _loss(model, inputs) == pytest.approx(facts["best_eval_loss"], rel=1e-4)


def _row(system: str | None, label: str | None = None) -> Example:
    turns = [("system", system)] if system else []
    messages = [{"role": r, "content": c} for r, c in [*turns, ("user", "u"), ("assistant", "a")]]
    return Example(id="0" * 16, messages=messages, label=label)


def test_a_soft_prompt_begins_from_the_commonest_system_prompt_and_the_labels() -> None:
    rows = [_row("rare", "b"), _row("usual", "a"), _row("usual"), _row(None, "b")]
    assert task_text(rows) == "usual\na\nb"
    assert task_text([_row(None)]) == ""


@pytest.mark.parametrize("name", ["prefix", "prompt"])
def test_a_soft_prompt_without_a_text_to_begin_from_is_refused(name: str) -> None:
    settings = TrainingSpec.model_validate({"method": name}).model_dump()
    method = methods.METHODS[name]
    assert isinstance(method, SoftPrompt)
    assert method.first_text(settings, "sort it") == "sort it"
    with pytest.raises(JobError, match=f"neither a system prompt nor labels\nfix: set training.{name}.init: text"):
        method.first_text(settings, "")


def test_full_fine_tuning_is_saved_as_a_model_in_the_bases_dtype(tmp_path: Path) -> None:
    from finetune_pipeline_tests.tiny_model import make_tiny_model

    inputs = make_inputs(tmp_path / "inputs")
    make_tiny_model(inputs / "base", dtype="bfloat16")
    facts, _ = train(_job(inputs, tmp_path, "full"))
    folder = tmp_path / "out" / "adapter"
    assert facts["trained"]["kind"] == "full" and facts["trainable_parameters"] == 99_648
    assert {t.dtype for t in _weights(tmp_path).values()} == {torch.bfloat16}
    assert (folder / "config.json").read_text() == (inputs / "base" / "config.json").read_text()
    assert (folder / "chat_template.jinja").read_bytes() == (inputs / "base" / "chat_template.jinja").read_bytes()
    assert not list(folder.glob("*.bin"))
    assert facts["rounding"]["dtype"] == "bfloat16"
    assert facts["rounding"]["eval_loss"] == pytest.approx(facts["best_eval_loss"], rel=0.02)
    assert facts["rounding"]["eval_loss"] != facts["best_eval_loss"]
    model = load_for_prediction(folder, CPU)
    assert _loss(model, inputs) == pytest.approx(facts["rounding"]["eval_loss"], rel=1e-4)


def _loss(model: Any, inputs: Path) -> float:

    tokenizer = load_tokenizer(inputs / "base")
    rows = encode_split(tokenizer, read_examples(inputs / "validation.jsonl"), 1 << 20, "fail").rows
    batch = PaddedCollator(2)([{"id": r.id, "ids": r.ids, "loss": r.loss} for r in rows])
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(logits_to_learn(model, batch), batch["labels"]).item()


def test_full_fine_tuning_keeps_float32_weights_and_computes_in_bfloat16(inputs: Path, tmp_path: Path) -> None:
    facts, _ = train(_job(inputs, tmp_path, "full", precision="bfloat16", epochs=1))
    exact, _ = train(_job(inputs, tmp_path / "exact", "full", precision="float32", epochs=1))
    assert facts["precision"] == "bfloat16" and facts["shared_prefix"]["used"]
    assert facts["best_eval_loss"] == pytest.approx(exact["best_eval_loss"], rel=0.02)
    assert facts["first_eval_loss"] != exact["first_eval_loss"]
    checkpoint = next((tmp_path / "work" / "checkpoints").glob("checkpoint-*/model.safetensors"))
    assert {t.dtype for t in load_file(checkpoint).values()} == {torch.float32}


@pytest.mark.parametrize("name", ["lora", "full"])
def test_gradient_checkpointing_changes_nothing_but_memory(inputs: Path, tmp_path: Path, name: str) -> None:
    kept, again = (
        train(_job(inputs, tmp_path / str(on), name, epochs=1, gradient_checkpointing=on, dropout=0.0))[0]
        for on in (False, True)
    )
    assert again["gradient_checkpointing"] == {"used": True, "why": "as training.gradient_checkpointing says"}
    assert again["best_eval_loss"] == pytest.approx(kept["best_eval_loss"], rel=1e-5)


def test_prefix_tuning_refuses_gradient_checkpointing(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="gradient_checkpointing: false"):
        train(_job(inputs, tmp_path, "prefix", gradient_checkpointing=True))
    facts, _ = train(_job(inputs, tmp_path, "prefix", epochs=1))
    assert not facts["gradient_checkpointing"]["used"]
