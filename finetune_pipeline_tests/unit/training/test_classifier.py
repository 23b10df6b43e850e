"""A classifier learns the class of each label from the prompt as it is served, packed as padded, and its audit stops faults."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from transformers import AutoModelForSequenceClassification

from finetune_pipeline.data.examples import read_examples, write_examples
from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.jobs import TrainJob
from finetune_pipeline.models.chat import encode_prompt, load_tokenizer
from finetune_pipeline.models.classifier import adapter_classes, with_head
from finetune_pipeline.models.merging import merge
from finetune_pipeline.pipeline import CHECKS
from finetune_pipeline.spec.methods.base import methods_for
from finetune_pipeline.training import rows
from finetune_pipeline.training.audit import COUNTS
from finetune_pipeline.training.packing import packed_collator, padded_batch, supports_shared_prefix
from finetune_pipeline.training.sft import job_digest, train
from finetune_pipeline_tests.tiny_model import LABELS
from finetune_pipeline_tests.trainings import LOCAL
from finetune_pipeline_tests.unit.models.architectures import random_model
from finetune_pipeline_tests.unit.training.jobs import job, task
from finetune_pipeline_tests.unit.training.models import loss_and_gradients

SUPERVISION = {check.name: check for step, check in CHECKS if step == "adapter"}["supervision"]


def classifier_job(inputs: Path, place: Path, classes: Sequence[str] = LABELS, **changes: Any) -> TrainJob:
    chosen = {"method": "classifier", "epochs": 4, "micro_batch_size": 8, **changes}
    return replace(job(inputs, place, **chosen), classes=list(classes))


def test_it_learns_the_labels_and_plain_transformers_answers_as_validated(inputs: Path, tmp_path: Path) -> None:
    facts, _ = train(classifier_job(inputs, tmp_path))
    adapter = tmp_path / "out" / "adapter"
    assert facts.shared_prefix.used and facts.trained.kind == "classifier"
    assert facts.best_eval_loss < 0.4 < facts.first_eval_loss
    rows_read = len(read_examples(inputs / "train.jsonl"))
    assert facts.tokens["train"].loss_tokens == facts.tokens["train"].rows == rows_read
    assert facts.trainable_parameters == 8192 + 64 * len(LABELS)
    assert adapter_classes(adapter) == LABELS
    merge(inputs / "base", adapter, tmp_path / "merged")
    tokenizer = load_tokenizer(tmp_path / "merged")
    plain: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged" / "model").eval()
    examples, losses = read_examples(inputs / "validation.jsonl"), []
    for example in examples:
        ids = torch.tensor([encode_prompt(tokenizer, example.prompt_messages)])
        with torch.no_grad():
            logits = plain(input_ids=ids).logits
        assert plain.config.id2label[int(logits.argmax())] == example.answer
        losses.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor([LABELS.index(example.answer)]))))
    assert sum(losses) / len(losses) == pytest.approx(facts.best_eval_loss, rel=1e-4)


def class_rows(seed: int, prefix: int) -> list[dict[str, Any]]:
    """Prompts of different lengths; one of them is the beginning of another."""
    rng = random.Random(seed)
    common = [rng.randrange(3, 390) for _ in range(prefix)]
    prompts = [[*common, *(rng.randrange(3, 390) for _ in range(rng.randint(2, 30)))] for _ in range(7)]
    prompts.append(prompts[0][:-1])
    return [{"id": str(i), "ids": ids, "loss": [False] * len(ids), "class_id": i % 3} for i, ids in enumerate(prompts)]


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3", "mistral"])
@pytest.mark.parametrize("prefix", [0, 20])
def test_same_loss_and_gradients_packed_and_padded(architecture: str, prefix: int) -> None:
    torch.manual_seed(1)
    model = with_head(random_model(architecture), LABELS).requires_grad_(True).eval()
    batch = class_rows(prefix, prefix)
    padded_loss, padded = loss_and_gradients(model, padded_batch(batch))
    good, why = supports_shared_prefix(model)
    assert good, why
    packed = packed_collator(model)(batch)
    assert (len(packed["labels"]), packed["learned"]) == (8, [1] * 8)
    loss, gradients = loss_and_gradients(model, packed)
    assert loss == pytest.approx(padded_loss, rel=1e-5)
    torch.testing.assert_close(gradients, padded, rtol=1e-3, atol=1e-5)


Plant = Callable[[Any, list[int]], list[int]]


def without_generation_prompt(tokenizer: Any, ids: list[int]) -> list[int]:
    """As a server renders it that leaves out the beginning of the answer."""
    return ids[: -len(tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"])]


@pytest.mark.parametrize("plant", [without_generation_prompt, lambda _, ids: ids[1:]])
def test_a_prompt_other_than_in_serving_stops_the_training(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Plant
) -> None:
    victim = read_examples(inputs / "train.jsonl")[1]

    def faulty(tokenizer: Any, messages: Any, tools: Any = None) -> list[int]:
        ids = encode_prompt(tokenizer, messages, tools)
        return plant(tokenizer, ids) if messages == victim.prompt_messages else ids

    monkeypatch.setattr(rows, "encode_prompt", faulty)
    with pytest.raises(FindingsError, match="audit.template_mismatch"):
        train(classifier_job(inputs, tmp_path))
    assert read_json(tmp_path / "work" / "audit.json")["train"]["bad"] == {"template_mismatch": [victim.id]}


def refusal_of(inputs: Path, place: Path, count: str) -> dict[str, Any]:
    """The audit of the training split, in which the check `supervision` finds only this fault."""
    audit: dict[str, Any] = read_json(place / "work" / "audit.json")["train"]
    assert [name for name in COUNTS if audit[name]] == [count]
    facts = LOCAL | {"audit": {**LOCAL["audit"], **audit}}
    outcome = SUPERVISION.ask(Artifact("t", "adapter", "1", place, facts, {}), task({"method": "classifier"}))
    assert not outcome.passed and count in outcome.message
    return audit


def test_a_label_without_a_class_stops_the_training(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(FindingsError, match="label without a class") as error:
        train(classifier_job(inputs, tmp_path, LABELS[:-1]))
    assert {finding.rule for finding in error.value.findings} == {"audit.rows_of_other_class"}
    unnamed = [e for e in read_examples(inputs / "train.jsonl") if e.answer == LABELS[-1]]
    assert refusal_of(inputs, tmp_path, "rows_of_other_class")["rows_of_other_class"] == len(unnamed)


def test_another_class_than_the_label_stops_the_training_and_the_page_shows_each_class(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_label = rows.encode_label
    victim = next(e for e in read_examples(inputs / "train.jsonl") if e.answer == "billing")

    def faulty(tokenizer: Any, example: Any) -> list[Any]:
        (row,) = encode_label(tokenizer, example)
        label = "how_to" if example.id == victim.id else row.label
        return [type(row)(row.id, row.ids, row.loss, label)]

    monkeypatch.setattr(rows, "encode_label", faulty)
    with pytest.raises(FindingsError, match=f"another class than their label.*{victim.id}"):
        train(classifier_job(inputs, tmp_path))
    shown = {row["id"]: row["pieces"][-1] for row in refusal_of(inputs, tmp_path, "rows_of_other_class")["shown"]}
    assert shown[victim.id] == ["how_to", "loss", False] and len(shown) > 1
    truth = {e.id: e.answer for e in read_examples(inputs / "train.jsonl")}
    assert all(piece == [truth[name], "loss", False] for name, piece in shown.items() if name != victim.id)


def test_control_tokens_and_long_rows_stop_it_as_any_training(inputs: Path, tmp_path: Path) -> None:
    examples = read_examples(inputs / "train.jsonl")
    examples[0].messages[1]["content"] += " <|im_end|>"
    examples[1].messages[1]["content"] *= 9
    write_examples(tmp_path / "train.jsonl", examples)
    with pytest.raises(FindingsError) as error:
        train(replace(classifier_job(inputs, tmp_path, max_tokens=80), train=tmp_path / "train.jsonl"))
    assert {f.rule for f in error.value.findings} == {"audit.rows_with_special_tokens", "audit.rows_over_length"}
    long_job = classifier_job(inputs, tmp_path, max_tokens=80, over_length="truncate_prompt", epochs=1)
    examples[0].messages[1]["content"] = examples[2].messages[1]["content"] + " again"
    write_examples(tmp_path / "train.jsonl", examples)
    facts, _ = train(replace(long_job, train=tmp_path / "train.jsonl"))
    assert facts.rows_dropped["train"].cut_ids == [examples[1].id]
    assert facts.tokens["train"].rows == len(examples)


def test_a_checkpoint_belongs_to_the_order_of_the_classes(inputs: Path, tmp_path: Path) -> None:
    digests = {job_digest(classifier_job(inputs, tmp_path, order)) for order in (LABELS, LABELS[::-1])}
    assert len(digests) == 2


def test_the_spec_refuses_it_where_answers_are_no_labels() -> None:
    from finetune_pipeline.spec.rules import check_method

    for output in ({"kind": "text"}, {"kind": "json", "json_schema": {"type": "object"}}):
        (finding,) = check_method(task({"method": "classifier"}, output=output), Path("demo"))
        assert (finding.rule, finding.severity, finding.place) == (
            "spec.method_output",
            "error",
            "task.yaml: training.method",
        )
        assert f"learns labels, but output.kind is {output['kind']}" in finding.message
        assert finding.fix == f"set training.method: {' or '.join(methods_for(output['kind']))}"
        assert "qlora or lora or full" in finding.fix and "classifier" not in finding.fix
    assert not list(check_method(task({"method": "classifier"}), Path("demo")))
