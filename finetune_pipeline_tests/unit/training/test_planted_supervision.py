"""Faults of supervision planted into a real training job: each stops it before a step is made, each is refused by the
graph's check from the audit the job left; a sound job passes both, and what has weight 0 is not learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.examples import Example, write_examples
from finetune_pipeline.engine.store import Artifact, read_json
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.chat import Encoded, encode_example, load_tokenizer
from finetune_pipeline.pipeline import CHECKS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.training import rows
from finetune_pipeline.training.audit import COUNTS
from finetune_pipeline.training.sft import train
from finetune_pipeline_tests.tiny_model import TEMPLATE
from finetune_pipeline_tests.unit.training.jobs import job, make_inputs

Plant = Callable[[Any, Encoded, Sequence[Any]], Encoded]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"), rows=16)


def masked(tokenizer: Any, row: Encoded, messages: Sequence[Any]) -> Encoded:
    return Encoded(row.id, row.ids, [False] * len(row.ids))


def eos_masked(tokenizer: Any, row: Encoded, messages: Sequence[Any]) -> Encoded:
    """As a collator does that takes the end token, which is the padding token too, for padding."""
    return Encoded(row.id, row.ids, [f and t != tokenizer.pad_token_id for t, f in zip(row.ids, row.loss, strict=True)])


def truncated(tokenizer: Any, row: Encoded, messages: Sequence[Any]) -> Encoded:
    """As a trainer does that cuts sequences from the right at its maximal length."""
    length = row.loss.index(True) + 1
    return Encoded(row.id, row.ids[:length], row.loss[:length])


def other_template(tokenizer: Any, row: Encoded, messages: Sequence[Any]) -> Encoded:
    serving = tokenizer.chat_template
    tokenizer.chat_template = TEMPLATE.replace(
        "<|im_start|>' + message['role'] + '\n'", "<|im_start|>' + message['role'] + ': '"
    )
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>assistant\n", "<|im_start|>assistant: ")
    assert tokenizer.chat_template != serving
    (made,) = encode_example(tokenizer, messages, row.id)
    tokenizer.chat_template = serving
    return made


def check(audit: dict[str, Any]) -> tuple[bool, str]:
    """What the check on the asset `adapter` says of a training with this audit."""
    (found,) = [c for _, c in CHECKS if c.name == "supervision"]
    spec = TaskSpec.model_validate({"name": "t", "description": "d", "system_prompt": "s", "output": {"kind": "text"}})
    answer = found.ask(Artifact("t", "adapter", "v", Path(), {"audit": audit}, {}), spec)
    assert found.blocks(spec)
    return answer.passed, answer.message


@pytest.mark.parametrize(
    ("plant", "rules"),
    [
        (masked, {"rows_without_loss"}),
        (eos_masked, {"rows_without_eos"}),
        (truncated, {"rows_without_eos", "answers_cut"}),
        (other_template, {"template_mismatch"}),
    ],
)
def test_a_planted_fault_stops_the_training_and_its_check_says_no(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Plant, rules: set[str]
) -> None:
    def faulty(tokenizer: Any, messages: Any, example_id: str = "", tools: Any = None) -> list[Encoded]:
        return [plant(tokenizer, row, messages) for row in encode_example(tokenizer, messages, example_id, tools)]

    monkeypatch.setattr(rows, "encode_example", faulty)
    with pytest.raises(FindingsError) as error:
        train(job(inputs, tmp_path))
    assert {f.rule for f in error.value.findings} == {f"audit.{rule}" for rule in rules}
    assert not (tmp_path / "work" / "checkpoints").exists()
    audit = read_json(tmp_path / "work" / "audit.json")["train"]
    assert {name for name in COUNTS if audit[name]} == rules and audit["rows"] == 16
    passed, message = check(audit)
    assert not passed and all(rule in message for rule in rules)


def test_a_sound_training_passes_and_what_has_weight_zero_is_not_learned(inputs: Path, tmp_path: Path) -> None:
    def talk(i: int) -> Example:
        turns = [
            ("user", f"first {i}"),
            ("assistant", f"bug_report number {i}"),
            ("user", "and now?"),
            ("assistant", "billing"),
        ]
        messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in turns]
        messages[1]["weight"] = 0
        return Example(f"talk-{i}", messages, source={"file": "a.jsonl", "line": i + 1})

    examples = [talk(i) for i in range(16)]
    write_examples(tmp_path / "train.jsonl", examples)
    assert json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])["messages"][1]["weight"] == 0
    facts, _ = train({**job(inputs, tmp_path, method="lora", epochs=1), "train": str(tmp_path / "train.jsonl")})
    answer = load_tokenizer(inputs / "base")("billing<|im_end|>", add_special_tokens=False)["input_ids"]
    assert facts["tokens"]["train"]["loss_tokens"] == 16 * len(answer)
    assert facts["audit"]["rows"] == 28 and facts["audit"]["splits"]["train"]["rows"] == 16
    assert check(facts["audit"])[0]
    shown = read_json(tmp_path / "work" / "audit.json")["train"]["shown"][0]["pieces"]
    assert "".join(text for text, kind, _ in shown if kind == "loss") == "billing<|im_end|>"
    assert "number" in "".join(text for text, kind, _ in shown if kind == "context")
