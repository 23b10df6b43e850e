"""All methods and their variants learn, and are saved as what was validated."""

import json
import shutil
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
from finetune_pipeline.training.model import build
from finetune_pipeline.training.packing import logits_to_learn, padded_batch
from finetune_pipeline.training.rows import encode_split, task_text
from finetune_pipeline.training.sft import train
from finetune_pipeline_tests.tiny_model import SYSTEM, make_tiny_model
from finetune_pipeline_tests.unit.models.architectures import make_model
from finetune_pipeline_tests.unit.training.jobs import job, make_inputs

LORA = {"r": 4, "alpha": 8, "dropout": 0.05}
METHODS: dict[str, dict[str, Any]] = {
    "dora": {"method": "lora", "lora": {**LORA, "dora": True}},
    "rslora": {"method": "lora", "lora": {**LORA, "rslora": True}},
    "full": {"learning_rate": 2e-3},
    "prefix": {"learning_rate": 0.05, "prefix": {"tokens": 6}},
    "prompt": {"learning_rate": 0.05, "prompt": {"tokens": 6}},
}
CPU = torch.device("cpu")


def _job(inputs: Path, place: Path, name: str, **changes: Any) -> dict[str, Any]:
    return job(inputs, place, **{"method": name, "epochs": 2, **METHODS.get(name, {}), **changes})


def _weights(place: Path) -> dict[str, torch.Tensor]:
    return load_file(next((place / "out" / "adapter").glob("*.safetensors")))


def _loss(folder: Path, inputs: Path, adapter: Path | None = None) -> float:
    """Of the validation rows, by PEFT and torch."""
    model = load_for_prediction(folder, CPU)
    model = PeftModel.from_pretrained(model, adapter).eval() if adapter else model
    examples = read_examples(inputs / "validation.jsonl")
    rows = encode_split(load_tokenizer(inputs / "base"), examples, 1 << 20, "fail").rows
    batch = padded_batch([{"id": r.id, "ids": r.ids, "loss": r.loss} for r in rows])
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(logits_to_learn(model, batch), batch["labels"]).item()


@pytest.mark.parametrize(("name", "tensors"), [("dora", 42), ("rslora", 28), ("prefix", 1), ("prompt", 1)])
def test_it_learns_and_what_is_saved_is_what_was_validated(inputs, tmp_path, name, tensors) -> None:
    facts, _ = train(_job(inputs, tmp_path, name))
    assert facts.best_eval_loss < facts.first_eval_loss - 0.02
    assert facts.shared_prefix.used, facts.shared_prefix.why
    trained, folder = facts.trained, tmp_path / "out" / "adapter"
    assert (trained.folder, len(trained.tensors)) == ("adapter", tensors)
    assert trained.bytes == (folder / "adapter_model.safetensors").stat().st_size
    assert {t.dtype for t in _weights(tmp_path).values()} == {torch.float32}
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    assert str(tmp_path) not in (folder / "adapter_config.json").read_text()
    assert facts.trainable_parameters == sum(t.numel() for t in _weights(tmp_path).values())
    assert not facts.gradient_checkpointing.used
    if tensors == 1:
        text = f"{SYSTEM}\nbilling\nbug_report\nhow_to"
        assert facts.begun == {"virtual_tokens": 6, "init": "task", "text": text}
    assert _loss(inputs / "base", inputs, folder) == pytest.approx(facts.best_eval_loss, rel=1e-4)


def test_a_soft_prompt_begins_from_the_commonest_system_prompt_and_the_labels() -> None:
    def row(system: str | None, label: str | None = None) -> Example:
        turns = [*([("system", system)] if system else []), ("user", "u"), ("assistant", "a")]
        return Example(id="0" * 16, messages=[{"role": r, "content": c} for r, c in turns], label=label)

    assert task_text([row("rare", "b"), row("usual", "a"), row("usual"), row(None, "b")]) == "usual\na\nb"
    assert task_text([row(None)]) == ""
    for name in ("prefix", "prompt"):
        settings = TrainingSpec.model_validate({"method": name})
        method = methods.METHODS[name]
        assert isinstance(method, SoftPrompt) and method.first_text(settings, "sort it") == "sort it"
        with pytest.raises(JobError, match=f"neither a system prompt nor labels\nfix: set training.{name}.init: text"):
            method.first_text(settings, "")


def test_full_fine_tuning_is_saved_as_a_model_in_the_bases_dtype(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "inputs")
    make_tiny_model(inputs / "base", dtype="bfloat16")
    facts, _ = train(_job(inputs, tmp_path, "full"))
    folder = tmp_path / "out" / "adapter"
    assert facts.trained.kind == "full" and facts.trainable_parameters == 99_648
    assert {t.dtype for t in _weights(tmp_path).values()} == {torch.bfloat16}
    assert (folder / "config.json").read_text() == (inputs / "base" / "config.json").read_text()
    assert (folder / "chat_template.jinja").read_bytes() == (inputs / "base" / "chat_template.jinja").read_bytes()
    assert not list(folder.glob("*.bin"))
    assert facts.rounding.dtype == "bfloat16"
    assert facts.rounding.eval_loss == pytest.approx(facts.best_eval_loss, rel=0.02)
    assert facts.rounding.eval_loss != facts.best_eval_loss
    assert _loss(folder, inputs) == pytest.approx(facts.rounding.eval_loss, rel=1e-4)


def test_full_fine_tuning_keeps_float32_weights_and_computes_in_bfloat16(inputs: Path, tmp_path: Path) -> None:
    exact, facts = (
        train(_job(inputs, tmp_path / precision, "full", precision=precision, epochs=1))[0]
        for precision in ("float32", "bfloat16")
    )
    assert facts.precision == "bfloat16" and facts.shared_prefix.used
    assert facts.best_eval_loss == pytest.approx(exact.best_eval_loss, rel=0.02)
    assert facts.first_eval_loss != exact.first_eval_loss
    checkpoint = next((tmp_path / "bfloat16" / "work" / "checkpoints").glob("checkpoint-*/model.safetensors"))
    assert {t.dtype for t in load_file(checkpoint).values()} == {torch.float32}


def test_gradient_checkpointing_changes_nothing_but_memory(inputs: Path, tmp_path: Path) -> None:
    """With an adapter, whose gradients need an input that has some."""
    exact, facts = (
        train(_job(inputs, tmp_path / str(used), "lora", epochs=1, gradient_checkpointing=used, dropout=0.0))[0]
        for used in (False, True)
    )
    assert facts.gradient_checkpointing.to_json() == {"used": True, "why": "as set in training.gradient_checkpointing"}
    assert facts.best_eval_loss == pytest.approx(exact.best_eval_loss, rel=1e-5)


def test_a_whole_model_goes_on_from_a_checkpoint_though_its_files_have_other_names(inputs, tmp_path) -> None:
    """Its experts are joined in memory only; what training takes from a checkpoint is the best model, too."""
    copied_inputs = shutil.copytree(inputs, tmp_path / "inputs", ignore=shutil.ignore_patterns("base"))
    base = make_model(copied_inputs / "base", "qwen3_moe")
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    facts, _ = train(_job(copied_inputs, undisturbed, "full"))
    shutil.copytree(undisturbed / "work", stopped / "work")
    shutil.rmtree(stopped / "work" / "checkpoints" / f"checkpoint-{facts.steps}")
    _, measured = train(_job(copied_inputs, stopped, "full"))
    assert measured["resumed_from"] is not None
    expected, weights = _weights(undisturbed), _weights(stopped)
    assert expected.keys() == load_file(base / "model.safetensors").keys()
    assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []
    assert _loss(undisturbed / "out" / "adapter", copied_inputs) == pytest.approx(facts.best_eval_loss, rel=1e-4)


@pytest.mark.parametrize(
    ("architecture", "method", "message"),
    [
        # one key head for all queries
        ("falcon", "prefix", "keys and values of falcon do not have the number of heads"),
        ("deepseek_v3", "prefix", "keys and values of deepseek_v3 do not have"),
        ("falcon_h1", "prefix", "falcon_h1 has layers that keep other states"),
        ("falcon_h1", "lora", "falcon_h1 cannot be trained like this.*out_proj"),
        ("falcon", "qlora", "falcon outside plain linear layers cannot be stored in 4 bits"),
    ],
)
def test_what_an_architecture_does_not_allow_is_refused(tmp_path, architecture, method, message) -> None:
    base = make_model(tmp_path / "base", architecture)
    settings = TrainingSpec.model_validate({"method": method})
    with pytest.raises(JobError, match=f"{message}(.|\n)*fix: "):
        build(base, settings, torch.float32, CPU, load_tokenizer(base), "sort it")


def test_prefix_tuning_refuses_gradient_checkpointing(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="gradient_checkpointing: false"):
        train(_job(inputs, tmp_path, "prefix", gradient_checkpointing=True))
