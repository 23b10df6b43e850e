"""The audit counts what would be taught wrongly, against the examples alone; each problem stops training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from finetune_pipeline.data.examples import Example
from finetune_pipeline.findings import Finding
from finetune_pipeline.models.chat import Encoded, encode_example
from finetune_pipeline.training.audit import COUNTS, problems, shown_row, supervision_audit
from finetune_pipeline.training.rows import encode_split
from finetune_pipeline_tests.tiny_model import tiny_messages


def _examples(number: int) -> list[Example]:
    return [Example(f"e{i}", tiny_messages(i), source={"file": "a.jsonl", "line": i + 1}) for i in range(number)]


def _dialogue() -> Example:
    turns = [(r, c) for i in range(3) for r, c in (("user", f"ask {i}"), ("assistant", f"answer {i}"))]
    return Example("d", [{"role": r, "content": c} for r, c in turns])


def test_sound_rows_have_no_problem(tokenizer: Any) -> None:
    examples = [*_examples(5), _dialogue()]
    rows = encode_split(tokenizer, examples, 1 << 20, "fail").rows
    facts = supervision_audit(rows, tokenizer, 200, examples)
    assert problems(facts) == []
    assert all(facts[name] == 0 for name in COUNTS)
    assert facts["rows"] == facts["examples"] == 6
    assert facts["loss_tokens"] == sum(sum(r.loss) for r in rows) > 0
    assert facts["tokens_per_row"]["max"] == max(len(r.ids) for r in rows)
    assert facts["tokens_per_row"]["min"] == min(len(r.ids) for r in rows)
    assert [row["why"] for row in facts["shown"]] == ["the shortest row", "a row of median length", "the longest row"]
    for row in facts["shown"]:
        assert "".join(t for t, kind, _ in row["pieces"] if kind == "loss").endswith("<|im_end|>")


def _half(row: Encoded) -> Encoded:
    first = row.loss.index(True)
    return Encoded(row.id, row.ids, [learned and at != first for at, learned in enumerate(row.loss)])


def _prompt_too(row: Encoded) -> Encoded:
    return Encoded(row.id, row.ids, [True] * len(row.ids))


def _answer_shortened(row: Encoded) -> Encoded:
    """A token out of the middle of the answer; its end is still there."""
    at = row.loss.index(True)
    return Encoded(row.id, row.ids[:at] + row.ids[at + 1 :], row.loss[:at] + row.loss[at + 1 :])


@pytest.mark.parametrize(
    ("plant", "counted"),
    [
        (_half, "rows_partly_learned"),
        (_prompt_too, "rows_with_loss_on_prompt"),
        (_answer_shortened, "answers_cut"),
    ],
)
def test_a_planted_fault_is_counted_shown_and_stops(
    tokenizer: Any, plant: Callable[[Encoded], Encoded], counted: str
) -> None:
    """Those that a whole training is stopped by are in test_planted_supervision."""
    examples = _examples(6)
    rows = encode_split(tokenizer, examples, 1 << 20, "fail").rows
    rows[1] = plant(rows[1])
    facts = supervision_audit(rows, tokenizer, 200, examples)
    assert {name: facts[name] for name in COUNTS if facts[name]} == {counted: 1}
    assert facts["bad"] == {counted: ["e1"]}
    (found,) = problems(facts, "train split")
    assert (found.rule, found.severity, found.place) == (f"audit.{counted}", "error", "train split")
    assert "e1" in found.message and found.fix
    shown = facts["shown"][0]
    assert shown["id"] == "e1" and shown["place"] == "a.jsonl:2"


def test_a_turn_that_is_not_to_be_learned_but_is(tokenizer: Any) -> None:
    example = _dialogue()
    rows = encode_example(tokenizer, example.messages, "d")
    quiet = [dict(m) for m in example.messages]
    quiet[1]["weight"] = 0
    facts = supervision_audit(rows, tokenizer, 200, [replace(example, messages=quiet)])
    assert {name for name in COUNTS if facts[name]} == {"rows_with_loss_on_prompt"}


def test_rows_over_length_are_counted_and_show_what_lies_behind(tokenizer: Any) -> None:
    examples = _examples(3)
    rows = encode_split(tokenizer, examples, 1 << 20, "fail").rows
    limit = sorted(len(r.ids) for r in rows)[-1] - 2
    facts = supervision_audit(rows, tokenizer, limit, examples)
    assert facts["rows_over_length"] == 1
    assert f"longer than {limit} tokens" in problems(facts)[0].message
    shown = facts["shown"][0]
    assert shown["tokens_lost"] == 2 and [kind for _, kind, _ in shown["pieces"]][-2:] == ["lost", "lost"]


@pytest.mark.parametrize(("mark", "turn"), [("<|im_end|>", 1), ("[/INST]", 2)])
def test_residue_of_templates_in_the_text_is_found(tokenizer: Any, mark: str, turn: int) -> None:
    examples = _examples(3)
    examples[1].messages[turn]["content"] += mark + " and more"
    rows = encode_split(tokenizer, examples, 1 << 20, "fail").rows
    facts = supervision_audit(rows, tokenizer, 200, examples)
    assert facts["rows_with_special_tokens"] == 1 and facts["bad"]["rows_with_special_tokens"] == ["e1"]
    assert "audit.rows_with_special_tokens" in {f.rule for f in problems(facts)}


def test_examples_that_could_not_be_written_are_counted_by_what_was_wrong(tokenizer: Any) -> None:
    refused = [
        Finding("chat.template_mismatch", "error", "example x, turn 2", "differs", "mend it"),
        Finding("chat.content_lost", "error", "example y", "leaves out the tools", "drop them"),
    ]
    facts = supervision_audit([], tokenizer, 200, [], refused=refused)
    assert (facts["rows"], facts["template_mismatch"], facts["rows_refused"]) == (2, 1, 1)
    told = {f.rule: (f.message, f.fix) for f in problems(facts)}
    assert "example x, turn 2: differs" in told["audit.template_mismatch"][0]
    assert "example y: leaves out the tools" in told["audit.rows_refused"][0]
    assert told["audit.rows_refused"][1] == "drop them"


def test_characters_of_several_tokens_are_shown_whole(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "größer 🙂 漢"}, {"role": "assistant", "content": "ja 🙂"}]
    (row,) = encode_example(tokenizer, messages, "u")
    pieces = shown_row(tokenizer, row, Example("u", messages), [], 200)["pieces"]
    text = "".join(p[0] for p in pieces)
    assert "größer 🙂 漢" in text and "\ufffd" not in text
    assert "".join(p[0] for p in pieces if p[1] == "loss") == "ja 🙂<|im_end|>"
