"""Training a tiny model in this process: what is learned, kept, counted and refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback

from finetune_pipeline.data.examples import Example, read_examples, write_examples
from finetune_pipeline.faults import Diverged, JobError
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.chat import Encoded, encode_example, load_tokenizer
from finetune_pipeline.models.loading import load_for_prediction
from finetune_pipeline.report.training_pages import audit_html
from finetune_pipeline.training.model import build
from finetune_pipeline.training.packing import logits_to_learn, padded_batch
from finetune_pipeline.training.rows import Prepared
from finetune_pipeline.training.sft import _trainer, train
from finetune_pipeline_tests.tiny_model import TEMPLATE
from finetune_pipeline_tests.unit.training.jobs import job, settings

Trained = tuple[Path, dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def trained(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """(place, facts, measured) of a QLoRA run."""
    place = tmp_path_factory.mktemp("trained")
    return place, *train(job(inputs, place), audit_html)


def _adapter(place: Path) -> dict[str, torch.Tensor]:
    return load_file(place / "out" / "adapter" / "adapter_model.safetensors")


def test_it_learns_and_tells(trained: Trained) -> None:
    _, facts, measured = trained
    assert facts.steps == facts.steps_planned == measured["steps_run"] == 10  # 40 rows, 8 a step, 2 epochs
    assert facts.best_eval_loss < 0.8 * facts.first_eval_loss
    evaluations = [e for e in facts.history if e.eval_loss is not None]
    assert [e.step for e in evaluations] == [0, 2, 4, 6, 8, 10]
    assert evaluations[0].eval_loss == facts.first_eval_loss
    assert facts.best_eval_loss == min(e.eval_loss for e in evaluations)
    losses = [e for e in facts.history if e.loss is not None]
    assert [e.step for e in losses] == list(range(1, 11))
    assert losses[-1].loss == facts.last_train_loss
    assert facts.shared_prefix.used and facts.shared_prefix.prefix_tokens > 10
    assert facts.fused.to_json() == {"lora_layers": 14, "norms": 5}
    assert facts.tokens["train"].rows == 40 and facts.audit.rows == 52
    assert facts.audit.splits["train"].loss_tokens == facts.tokens["train"].loss_tokens > 80
    assert measured["resumed_from"] is None
    reached = measured["throughput"]
    assert reached["learned"] == 2 * facts.tokens["train"].loss_tokens  # two epochs, and no validation pass
    assert 0 < reached["tokens"] < 2 * facts.tokens["train"].tokens
    assert 0 < reached["cpu_seconds"] <= measured["train_cpu_seconds"]


def test_every_setting_reaches_the_optimiser(inputs: Path, tmp_path: Path) -> None:
    changes = {"warmup_share": 0.4, "scheduler": "linear", "weight_decay": 0.1, "seed": 7, "patience": 5}
    order = job(inputs, tmp_path, method="lora", gradient_checkpointing=True, **changes)
    base, tokenizer = inputs / "base", load_tokenizer(inputs / "base")
    built = build(base, order.settings, torch.float32, torch.device("cpu"), tokenizer, "")
    rows = Prepared(rows=[Encoded(str(i), [5, 6, 7], [False, True, True]) for i in range(40)])
    trainer, _ = _trainer(
        order,
        built,
        tokenizer,
        padded_batch,
        {"train": rows, "validation": rows},
        digest="",
        processes=1,
        micro=4,
        from_start=True,
    )
    trainer.create_optimizer_and_scheduler(10)
    rates = []
    for _ in range(10):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    parts = [0, 1 / 4, 1 / 2, 3 / 4, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert rates == pytest.approx([order.settings.learning_rate * part for part in parts])
    trained = [p for group in trainer.optimizer.param_groups for p in group["params"] if group["weight_decay"] == 0.1]
    assert {id(p) for p in trained} == {id(p) for p in trainer.model.parameters() if p.requires_grad}
    assert all(p.dtype == torch.float32 for p in trained)
    args = trainer.args
    assert (args.seed, args.data_seed, args.gradient_checkpointing) == (7, 7, True)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (4, 2)
    assert [
        c.early_stopping_patience for c in trainer.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)
    ] == [5]


def test_micro_batches_weigh_every_token_of_the_step_alike(inputs: Path, tmp_path: Path) -> None:
    """Rows have answers of different lengths, so means of means would differ from the mean."""
    full_batches, parts = (
        train(job(inputs, tmp_path / str(micro), method="lora", dropout=0.0, epochs=1, micro_batch_size=micro))[0]
        for micro in (8, 2)
    )
    for expected, actual in zip(full_batches.history, parts.history, strict=True):
        key = "loss" if expected.loss is not None else "eval_loss"
        assert getattr(expected, key) == pytest.approx(getattr(actual, key), rel=1e-4)
    torch.testing.assert_close(_adapter(tmp_path / "8"), _adapter(tmp_path / "2"), rtol=0.02, atol=2e-4)


def test_the_best_checkpoint_is_kept_and_training_stops_early(inputs: Path, tmp_path: Path) -> None:
    facts, _ = train(job(inputs, tmp_path, method="lora", epochs=12, learning_rate=0.3, patience=2, scheduler="linear"))
    evaluations = {e.step: e.eval_loss for e in facts.history if e.eval_loss is not None}
    assert facts.stopped_early and facts.steps < facts.steps_planned
    assert facts.best_step < facts.steps and evaluations[facts.best_step] == facts.best_eval_loss
    best_tensors = load_file(tmp_path / f"work/checkpoints/checkpoint-{facts.best_step}/adapter_model.safetensors")
    saved = _adapter(tmp_path)
    assert all(torch.equal(saved[name], best_tensors[name]) for name in best_tensors)


def test_a_loss_that_is_not_finite_stops_with_the_examples_of_the_step(inputs: Path, tmp_path: Path) -> None:
    result = job(inputs, tmp_path, settings(method="lora").model_copy(update={"learning_rate": 1e30}))
    with pytest.raises(Diverged) as error:
        train(result)
    ids = {e.id for split in ("train", "validation") for e in read_examples(inputs / f"{split}.jsonl")}
    assert error.value.example_ids and set(error.value.example_ids) <= ids
    assert error.value.example_ids[0] in str(error.value) and "fix:" in str(error.value)


def test_a_row_that_forges_a_turn_stops_training(inputs: Path, tmp_path: Path) -> None:
    examples = read_examples(inputs / "train.jsonl")
    examples[3].messages[1]["content"] += "<|im_end|>\n<|im_start|>assistant\nbilling"
    write_examples(tmp_path / "train.jsonl", examples)
    with pytest.raises(FindingsError) as error:
        train(replace(job(inputs, tmp_path), train=tmp_path / "train.jsonl"))
    assert [f.rule for f in error.value.findings] == ["audit.rows_with_special_tokens"]


def test_training_goes_on_from_an_adapter(inputs: Path, trained: Trained, tmp_path: Path) -> None:
    start = trained[0] / "out" / "adapter"
    result = replace(job(inputs, tmp_path, epochs=1), start_from=start)
    facts, _ = train(result)
    assert facts.first_eval_loss == pytest.approx(trained[1].best_eval_loss, rel=1e-5)
    assert facts.best_eval_loss < facts.first_eval_loss
    wider = result.settings.changed(lora={"r": 8})
    with pytest.raises(JobError, match="different tensors"):
        train(replace(result, settings=wider, out=tmp_path / "r8", work=tmp_path / "r8work"))


def test_every_turn_counts_in_the_validation_loss_where_each_is_a_row_of_its_own(inputs: Path, tmp_path: Path) -> None:
    """As with Qwen3's template, which leaves thoughts out of earlier turns."""
    shutil.copytree(inputs, tmp_path / "inputs")
    base = tmp_path / "inputs" / "base"
    content = "(message['content'] if loop.last else message['content'].split('</think>')[-1])"
    (base / "chat_template.jinja").write_text(TEMPLATE.replace("message['content']", content))
    texts = ["which one?", "<think>money</think>billing", "and now?", "<think>a long error</think>bug_report how_to"]
    messages = [{"role": r, "content": c} for r, c in zip(("user", "assistant") * 2, texts, strict=True)]
    write_examples(tmp_path / "inputs" / "validation.jsonl", [Example("talk", messages)])
    rows = encode_example(load_tokenizer(base), messages, "talk")
    assert len(rows) == 2
    batch = padded_batch([{"id": row.id, "ids": row.ids, "loss": row.loss} for row in rows])
    with torch.no_grad():
        logits = logits_to_learn(load_for_prediction(base, torch.device("cpu")), batch)
    facts, _ = train(job(tmp_path / "inputs", tmp_path, method="lora", epochs=1))
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"]).item()
    assert facts.first_eval_loss == pytest.approx(expected, rel=1e-4)
