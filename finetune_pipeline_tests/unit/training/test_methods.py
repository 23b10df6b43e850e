"""All five methods learn, stop, are saved as what they are, and are taken up again after a kill with the same result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from finetune_pipeline.data.examples import Example, read_examples, write_examples
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.loading import load_for_prediction, load_tokenizer
from finetune_pipeline.training.sft import train
from finetune_pipeline.training.shared_prefix import PaddedCollator, logits_to_learn
from finetune_pipeline.training.trainer import TokenTrainer
from finetune_pipeline_tests.tiny_model import SYSTEM
from finetune_pipeline_tests.unit.training.jobs import job, make_inputs

METHODS: dict[str, dict[str, Any]] = {
    "qlora": {},
    "lora": {},
    "dora": {"method": "lora", "lora": {"r": 4, "alpha": 8, "dropout": 0.05, "dora": True}},
    "rslora": {"method": "lora", "lora": {"r": 4, "alpha": 8, "dropout": 0.05, "rslora": True, "init": "orthogonal"}},
    "qdora": {"method": "qlora", "lora": {"r": 4, "alpha": 8, "dropout": 0.0, "dora": True}},
    "full": {"learning_rate": 2e-3},
    "prefix": {"learning_rate": 0.05, "prefix": {"tokens": 6}},
    "prompt": {"learning_rate": 0.05, "prompt": {"tokens": 6}},
}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _determinism_ends_with_the_test() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def _job(inputs: Path, place: Path, name: str, **changes: Any) -> dict[str, Any]:
    return job(inputs, place, **{"method": name, "epochs": 2, **METHODS[name], **changes})


def _weights(place: Path) -> dict[str, torch.Tensor]:
    file = next((place / "out" / "adapter").glob("*.safetensors"))
    return load_file(file)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("name", METHODS)
def test_killed_between_checkpoints_it_ends_with_the_same_weights_to_the_bit(
    inputs: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, _ = train(_job(inputs, tmp_path / "whole", name))
    assert facts["steps"] == 10 and facts["best_eval_loss"] < facts["first_eval_loss"] - 0.02, name
    assert facts["shared_prefix"]["used"], facts["shared_prefix"]["why"]

    with monkeypatch.context() as patch:
        step = TokenTrainer.training_step
        calls = iter(range(10_000))

        def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
            if next(calls) == 13:  # two micro-batches a step: in the middle of step 7, after the checkpoint of step 6
                raise Killed
            return step(self, *args, **kwargs)

        patch.setattr(TokenTrainer, "training_step", dying)
        with pytest.raises(Killed):
            train(_job(inputs, tmp_path / "killed", name))
    again, measured = train(_job(inputs, tmp_path / "killed", name))
    assert measured["resumed_from"] == "checkpoint-6" and measured["steps_run"] == 4
    assert json.dumps(again, sort_keys=True) == json.dumps(facts, sort_keys=True)
    whole, resumed = _weights(tmp_path / "whole"), _weights(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)

    finished, measured = train(_job(inputs, tmp_path / "killed", name))  # trained, and not published: nothing to do
    assert measured["steps_run"] == 0
    assert json.dumps(finished, sort_keys=True) == json.dumps(facts, sort_keys=True)
    assert all(torch.equal(whole[k], t) for k, t in _weights(tmp_path / "killed").items())


def _contradicting(inputs: Path, path: Path) -> Path:
    """Validation rows whose answers are wrong: what fits the training rows fits these ever less."""
    wrong = {"billing": "bug_report", "bug_report": "how_to", "how_to": "billing"}
    rows = read_examples(inputs / "train.jsonl")[:9]
    for row in rows:
        row.messages[-1]["content"] = wrong[row.messages[-1]["content"]]
    write_examples(path, rows)
    return path


@pytest.mark.parametrize("name", ["full", "prefix", "prompt"])
def test_it_stops_early_and_keeps_the_best(inputs: Path, tmp_path: Path, name: str) -> None:
    told = _job(inputs, tmp_path, name, epochs=30, patience=2, scheduler="constant_with_warmup")
    told["validation"] = str(_contradicting(inputs, tmp_path / "wrong.jsonl"))
    facts, _ = train(told)
    evaluations = {e["step"]: e["eval_loss"] for e in facts["history"] if "eval_loss" in e}
    assert facts["stopped_early"] and facts["best_step"] < facts["steps"] < facts["steps_planned"]
    assert evaluations[facts["best_step"]] == facts["best_eval_loss"] < evaluations[facts["steps"]]
    best = tmp_path / "work" / "checkpoints" / f"checkpoint-{facts['best_step']}"
    kept = load_file(next(best.glob("*model.safetensors")))
    saved = _weights(tmp_path)
    assert all(torch.equal(saved[k], kept[k]) for k in saved)
    assert facts["overfitting"]["best_step"] in evaluations
    assert facts["overfitting"]["last_eval"] == evaluations[facts["steps"]]


@pytest.mark.parametrize(
    ("name", "kind", "tensors"),
    [("lora", "low_rank", 28), ("dora", "low_rank", 42), ("prefix", "soft_prompt", 1), ("prompt", "soft_prompt", 1)],
)
def test_what_is_saved_is_what_was_validated(inputs: Path, tmp_path: Path, name: str, kind: str, tensors: int) -> None:
    facts, _ = train(_job(inputs, tmp_path, name))
    trained = facts["trained"]
    assert (trained["kind"], trained["folder"], len(trained["tensors"])) == (kind, "adapter", tensors)
    folder = tmp_path / "out" / "adapter"
    assert trained["bytes"] == (folder / "adapter_model.safetensors").stat().st_size
    assert {t.dtype for t in _weights(tmp_path).values()} == {torch.float32}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base"
    assert str(tmp_path) not in (folder / "adapter_config.json").read_text()
    assert facts["trainable_parameters"] == sum(t.numel() for t in _weights(tmp_path).values())
    model = PeftModel.from_pretrained(load_for_prediction(inputs / "base", CPU), folder).eval()
    assert _loss(model, inputs) == pytest.approx(facts["best_eval_loss"], rel=1e-4)


def test_full_fine_tuning_is_saved_as_a_model_in_the_bases_dtype(tmp_path: Path) -> None:
    from finetune_pipeline_tests.tiny_model import make_tiny_model

    inputs = make_inputs(tmp_path / "inputs")
    make_tiny_model(inputs / "base", dtype="bfloat16")
    facts, _ = train(_job(inputs, tmp_path, "full"))
    folder = tmp_path / "out" / "adapter"
    assert facts["trained"]["kind"] == "model" and facts["trainable_parameters"] == 99_648
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
    from finetune_pipeline.models.chat import encode_all

    tokenizer = load_tokenizer(inputs / "base")
    rows, _ = encode_all(tokenizer, read_examples(inputs / "validation.jsonl"))
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


@pytest.mark.parametrize("name", ["prefix", "prompt"])
def test_a_soft_prompt_begins_from_the_tasks_own_text(inputs: Path, tmp_path: Path, name: str) -> None:
    told = {
        n: _job(inputs, tmp_path / n, name, epochs=1, **{name: {"tokens": 6, "init": n}}) for n in ("task", "random")
    }
    facts, _ = train(told["task"])
    assert facts["begun"]["text"] == f"{SYSTEM}\nbilling\nbug_report\nhow_to"
    assert facts["begun"]["virtual_tokens"] == 6
    random, _ = train(told["random"])
    assert random["begun"]["text"] is None
    assert facts["first_eval_loss"] != random["first_eval_loss"]


def test_a_task_without_any_text_needs_one_to_begin_from(inputs: Path, tmp_path: Path) -> None:
    turns = [[{"role": "user", "content": f"hi {i}"}, {"role": "assistant", "content": "yes"}] for i in range(9)]
    write_examples(tmp_path / "bare.jsonl", [Example(f"e{i}", m) for i, m in enumerate(turns)])
    told = {**_job(inputs, tmp_path, "prompt"), "train": str(tmp_path / "bare.jsonl")}
    with pytest.raises(JobError, match="neither a system prompt nor labels"):
        train(told)


@pytest.mark.parametrize("name", ["lora", "full", "prompt"])
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
