"""Examples that are too long: refused, left out, or cut at the start of their user text; never at the answer."""

from typing import Any

import pytest

from finetune_pipeline.data.examples import Example
from finetune_pipeline.models.chat import encode_example, render
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.training.rows import cut_prompt, longest, longest_allowed, prepare_split
from finetune_pipeline_tests.tiny_model import SYSTEM, tiny_messages


def _long(name: str = "long", answer: str = "billing") -> Example:
    texts = [SYSTEM, "first words of old news. " * 20 + "my invoice is wrong", answer]
    roles = ("system", "user", "assistant")
    return Example(name, [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)])


@pytest.mark.parametrize("limit", [60, 120])
def test_the_start_of_the_user_text_goes_and_nothing_else(tokenizer: Any, limit: int) -> None:
    example = _long()
    full_length = longest(encode_example(tokenizer, example.messages, "x"))
    assert full_length > 200
    shortened, rows, cuts = cut_prompt(tokenizer, example, limit)
    assert limit - 3 <= longest(rows) <= limit
    assert shortened.messages[0] == example.messages[0] and shortened.messages[2] == example.messages[2]
    remaining_text = shortened.messages[1]["content"]
    assert remaining_text.endswith("my invoice is wrong") and example.messages[1]["content"].endswith(remaining_text)
    (cut,) = cuts
    assert cut.turn == 1 and cut.text + remaining_text == example.messages[1]["content"]
    assert cut.tokens == pytest.approx(full_length - longest(rows), abs=2)
    assert tokenizer.decode(rows[0].ids) == render(tokenizer, shortened.messages)  # what serving makes of it
    assert example.messages[1]["content"].startswith("first")  # the example itself is as it was


def test_the_longest_user_text_is_cut_first_and_others_when_it_is_used_up(tokenizer: Any) -> None:
    texts = ["a b c d e f g h", "one", "so it goes on and on " * 9, "two"]
    roles = ("user", "assistant") * 2
    example = Example("d", [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)])
    full_length = longest(encode_example(tokenizer, example.messages, "d"))
    shortened, rows, cuts = cut_prompt(tokenizer, example, full_length - 10)
    assert [c.turn for c in cuts] == [2] and longest(rows) <= full_length - 10
    assert shortened.messages[0]["content"] == "a b c d e f g h"
    least = longest(encode_example(tokenizer, [{**m, "content": m["content"][-1:]} for m in example.messages], "d"))
    _, rows, cuts = cut_prompt(tokenizer, example, least + 9)
    assert [c.turn for c in cuts] == [0, 2] and longest(rows) <= least + 9


def test_an_answer_alone_too_long_is_never_cut(tokenizer: Any) -> None:
    example = _long(answer="billing " * 60)
    shortened, rows, _ = cut_prompt(tokenizer, example, 60)
    assert longest(rows) > 60 and shortened.messages[2]["content"] == "billing " * 60
    prepared = prepare_split(tokenizer, [example], 60, "truncate_prompt", "train split")
    assert [f.rule for f in prepared.audit.problems] == ["audit.rows_over_length"]


def test_each_policy_counts_and_lists_what_it_does(tokenizer: Any) -> None:
    examples = [Example(f"e{i}", tiny_messages(i)) for i in range(4)] + [_long("long1"), _long("long2")]
    refused = prepare_split(tokenizer, examples, 100, "fail", "train split")
    assert [f.rule for f in refused.audit.problems] == ["audit.rows_over_length"]
    assert refused.audit.rows_over_length == 2 and refused.audit.bad["rows_over_length"] == ["long1", "long2"]

    dropped = prepare_split(tokenizer, examples, 100, "drop", "train split")
    assert dropped.audit.problems == [] and dropped.dropped == ["long1", "long2"] and len(dropped.rows) == 4
    assert dropped.audit.rows_dropped == 2
    facts = dropped.length_facts().to_json()
    assert facts == {"over_length": 2, "ids": ["long1", "long2"], "cut": 0, "cut_ids": [], "tokens_cut": 0}
    left_out = next(r for r in dropped.audit.shown if r.id == "long1")
    assert "left out" in left_out.why and left_out.pieces[-1][1] == "lost"

    (finding,) = prepare_split(tokenizer, examples[4:], 100, "drop", "train split").audit.problems
    assert finding.message == "all 2 rows are longer than 100 tokens, and were left out"

    cut = prepare_split(tokenizer, examples, 100, "truncate_prompt", "train split")
    assert cut.audit.problems == [] and len(cut.rows) == 6 and max(len(r.ids) for r in cut.rows) <= 100
    facts = cut.length_facts()
    assert (facts.over_length, facts.cut, facts.cut_ids) == (0, 2, ["long1", "long2"])
    assert facts.tokens_cut == cut.audit.tokens_cut > 200
    shown_row = next(r for r in cut.audit.shown if r.id == "long1")
    lost = [text for text, kind, _ in shown_row.pieces if kind == "lost"]
    assert lost[0].startswith("first words of old news.") and shown_row.tokens_lost > 100


def test_the_bases_context_and_a_soft_prompt_bound_the_length_too() -> None:
    prompt = TrainingSpec.model_validate({"method": "prompt", "prompt": {"tokens": 30}, "max_tokens": 500})
    assert longest_allowed(prompt, {"max_position_embeddings": 512}) == 482
    assert longest_allowed(prompt, {"text_config": {"max_position_embeddings": 4096}}) == 500
    assert longest_allowed(prompt, {}) == 500
    assert longest_allowed(prompt.changed(method="lora"), {"max_position_embeddings": 512}) == 500
