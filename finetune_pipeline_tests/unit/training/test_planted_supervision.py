"""Faults of supervision planted into a real training job: each stops it before a step is made, each is refused by the
graph's check from the audit the job left; a sound job passes both, and what has weight 0 is not learned."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tokenizers import normalizers

from finetune_pipeline.data.examples import Example, read_examples, write_examples
from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.chat import Encoded, encode_example, load_tokenizer
from finetune_pipeline.pipeline import CHECKS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.training import rows
from finetune_pipeline.training.audit import COUNTS, supervision_audit
from finetune_pipeline.training.sft import train
from finetune_pipeline_tests.tiny_model import TEMPLATE
from finetune_pipeline_tests.trainings import LOCAL
from finetune_pipeline_tests.unit.training.jobs import job

ROWS = 16

Plant = Callable[[Any, Encoded, Sequence[Any]], Encoded]


def learning(change: Callable[[Any, list[int], list[bool]], list[bool]]) -> Plant:
    """A fault in which tokens are learned. change(tokenizer, ids, loss) -> loss."""
    return lambda tokenizer, row, _: Encoded(row.id, row.ids, change(tokenizer, row.ids, row.loss))


def eos_masked(tokenizer: Any, ids: list[int], loss: list[bool]) -> list[bool]:
    """As a collator does that takes the end token, which is the padding token too, for padding."""
    return [on and token != tokenizer.pad_token_id for token, on in zip(ids, loss, strict=True)]


def first_masked(tokenizer: Any, ids: list[int], loss: list[bool]) -> list[bool]:
    return [on and at != loss.index(True) for at, on in enumerate(loss)]


def truncated(tokenizer: Any, row: Encoded, messages: Sequence[Any]) -> Encoded:
    """As a trainer does that cuts sequences from the right at its maximal length."""
    length = row.loss.index(True) + 1
    return Encoded(row.id, row.ids[:length], row.loss[:length])


def shortened(tokenizer: Any, row: Encoded, messages: Sequence[Any]) -> Encoded:
    """A token out of the answer; its end is still there."""
    at = row.loss.index(True)
    return Encoded(row.id, row.ids[:at] + row.ids[at + 1 :], row.loss[:at] + row.loss[at + 1 :])


def other_template(tokenizer: Any, row: Encoded, messages: Sequence[Any]) -> Encoded:
    serving = tokenizer.chat_template
    changed_template = TEMPLATE.replace("message['role'] + '\n'", "message['role'] + ':\n'")
    tokenizer.chat_template = changed_template.replace("<|im_start|>assistant\n", "<|im_start|>assistant:\n")
    (encoded,) = encode_example(tokenizer, messages, row.id)
    tokenizer.chat_template = serving
    assert encoded.ids != row.ids
    return encoded


def check(audit: dict[str, Any]) -> tuple[bool, str]:
    """What the check on the asset `adapter` says of a training with this audit."""
    (supervision,) = [c for _, c in CHECKS if c.name == "supervision"]
    spec = TaskSpec.model_validate({"name": "t", "description": "d", "system_prompt": "s", "output": {"kind": "text"}})
    answer = supervision.ask(
        Artifact("t", "adapter", "v", Path(), LOCAL | {"audit": {**LOCAL["audit"], **audit}}, {}), spec
    )
    assert supervision.blocks(spec)
    return answer.passed, answer.message


@pytest.mark.parametrize(
    ("plant", "rules"),
    [
        (learning(lambda tokenizer, ids, loss: [False] * len(ids)), {"rows_without_loss"}),
        (learning(lambda tokenizer, ids, loss: [True] * len(ids)), {"rows_with_loss_on_prompt"}),
        (learning(eos_masked), {"rows_without_eos"}),
        (learning(first_masked), {"rows_partly_learned"}),
        (truncated, {"rows_without_eos", "answers_cut"}),
        (shortened, {"answers_cut"}),
        (other_template, {"template_mismatch"}),
    ],
)
def test_a_planted_fault_stops_the_training_and_its_check_says_no(inputs, tmp_path, monkeypatch, plant, rules) -> None:
    """In one row of sixteen."""
    victim = read_examples(inputs / "train.jsonl")[1].id

    def faulty(tokenizer: Any, messages: Any, example_id: str = "", tools: Any = None) -> list[Encoded]:
        encoded = encode_example(tokenizer, messages, example_id, tools)
        return [plant(tokenizer, row, messages) if example_id == victim else row for row in encoded]

    monkeypatch.setattr(rows, "encode_example", faulty)
    with pytest.raises(FindingsError) as error:
        train(job(inputs, tmp_path))
    assert {f.rule for f in error.value.findings} == {f"audit.{rule}" for rule in rules}
    assert all(f.severity == "error" and victim in f.message and f.fix for f in error.value.findings)
    assert not (tmp_path / "work" / "checkpoints").exists()
    audit = read_json(tmp_path / "work" / "audit.json")["train"]
    assert {name: audit[name] for name in COUNTS if audit[name]} == dict.fromkeys(rules, 1) and audit["rows"] == 16
    assert audit["bad"] == {rule: [victim] for rule in rules}
    assert (audit["shown"][0]["id"], audit["shown"][0]["place"]) == (victim, "t.jsonl:2")
    passed, message = check(audit)
    assert not passed and all(rule in message for rule in rules)


def test_a_sound_training_passes_and_what_has_weight_zero_is_not_learned(inputs: Path, tmp_path: Path) -> None:
    def talk(i: int) -> Example:
        texts = [f"first {i}", f"bug_report number {i}", "and now?", "billing"]
        roles = ("user", "assistant", "user", "assistant")
        messages: list[dict[str, Any]] = [{"role": r, "content": c} for r, c in zip(roles, texts, strict=True)]
        messages[1]["weight"] = 0
        return Example(f"talk-{i}", messages, source={"file": "a.jsonl", "line": i + 1})

    write_examples(tmp_path / "train.jsonl", [talk(i) for i in range(16)])
    assert json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])["messages"][1]["weight"] == 0
    facts, _ = train(replace(job(inputs, tmp_path, method="lora", epochs=1), train=tmp_path / "train.jsonl"))
    answer = load_tokenizer(inputs / "base")("billing<|im_end|>", add_special_tokens=False)["input_ids"]
    assert facts.tokens["train"].loss_tokens == 16 * len(answer)
    assert all(facts.audit.splits[split].count(name) == 0 for split in ("train", "validation") for name in COUNTS)
    assert facts.audit.rows == 28 and facts.audit.splits["train"].rows == 16
    assert check(facts.audit.to_json())[0]
    pieces = read_json(tmp_path / "work" / "audit.json")["train"]["shown"][0]["pieces"]
    assert "".join(text for text, kind, _ in pieces if kind == "loss") == "billing<|im_end|>"
    assert "number" in "".join(text for text, kind, _ in pieces if kind == "context")


def test_residue_of_templates_in_the_text_is_found(inputs: Path) -> None:
    examples, tokenizer = read_examples(inputs / "train.jsonl")[:3], load_tokenizer(inputs / "base")
    examples[1].messages[2]["content"] += "[/INST] and more"
    facts = supervision_audit(rows.encode_split(tokenizer, examples, 200, "fail"), tokenizer, 200)
    assert facts.bad == {"rows_with_special_tokens": [examples[1].id]}
    assert [f.rule for f in facts.problems] == ["audit.rows_with_special_tokens"]


def test_what_the_tokenizer_changes_or_shares_with_text_is_no_fault(inputs: Path, tmp_path: Path) -> None:
    """A tokenizer that composes accents, as Qwen's does, and has a special token of one character."""
    tokenizer = load_tokenizer(Path(shutil.copytree(inputs / "base", tmp_path / "base")))
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.pad_token = "!"
    (example, *_) = read_examples(inputs / "train.jsonl")
    example.messages[2]["content"] = "cafe\u0301!"
    facts = supervision_audit(rows.encode_split(tokenizer, [example], 200, "fail"), tokenizer, 200)
    assert facts.problems == [] and facts.loss_tokens > 2


def test_examples_that_could_not_be_written_are_counted_by_what_was_wrong(tokenizer: Any) -> None:
    refused = [
        Finding("chat.template_mismatch", "error", "example x, turn 2", "differs", "mend it"),
        Finding("chat.content_lost", "error", "example y", "leaves out the tools", "drop them"),
    ]
    facts = supervision_audit(rows.Prepared(refused=refused), tokenizer, 200)
    assert (facts.rows, facts.template_mismatch, facts.rows_refused) == (2, 1, 1)
    findings = {f.rule: (f.message, f.fix) for f in facts.problems}
    assert "example x, turn 2: differs" in findings["audit.template_mismatch"][0]
    assert "example y: leaves out the tools" in findings["audit.rows_refused"][0]
    assert findings["audit.rows_refused"][1] == "drop them"
