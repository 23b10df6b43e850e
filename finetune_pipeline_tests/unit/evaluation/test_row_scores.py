"""Scores of single answers: what is right, what is only in form, and what a repaired answer is worth."""

from __future__ import annotations

import json

import pytest

from finetune_pipeline.evaluation.correctness import (
    is_right,
    is_valid,
    metric_values,
    read_json,
    row_scores,
    same_answer,
    same_calls,
)
from finetune_pipeline.spec.outputs import JsonOutput, LabelsOutput, TextOutput
from finetune_pipeline_tests.unit.evaluation.rows import row

ORDER = JsonOutput(
    json_schema={
        "type": "object",
        "properties": {
            "name": {"type": ["string", "null"]},
            "items": {"type": "array", "items": {"type": "string"}},
            "steps": {"type": "array", "items": {"type": "string"}},
            "total": {"type": "number"},
        },
        "required": ["name", "items", "total"],
        "additionalProperties": False,
    },
    unordered=["items"],
)
GOLD = {"name": "Ada", "items": ["tea", "milk"], "total": 5}


def said(text: str | dict, gold: dict = GOLD, **changes) -> dict:
    return row(1, json.dumps(gold), text if isinstance(text, str) else json.dumps(text), **changes)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ({"total": 5.0, "items": ["milk", "tea"], "name": "Ada"}, True),  # order of keys and of unordered lists
        ({"name": "Ada", "items": ["tea"], "total": 5}, False),
        ({"name": "Ada", "items": ["tea", "milk", "milk"], "total": 5}, False),
        ({"name": "ada", "items": ["tea", "milk"], "total": 5}, False),
        ({"name": "Ada", "items": ["tea", "milk"], "total": True}, False),
        ('{"name": "Ada", "items": ["tea", "milk"], "total": 5,}', False),
        ('{"name": "Ada", "name": "Ada", "items": ["tea", "milk"], "total": 5}', False),
    ],
)
def test_an_extraction_is_right_as_a_value(text: str | dict, right: bool) -> None:
    assert is_right(said(text), ORDER) is right


def test_order_matters_in_lists_that_are_not_declared_unordered() -> None:
    gold = GOLD | {"steps": ["a", "b"]}
    assert is_right(said(gold, gold), ORDER)
    assert not is_right(said(gold | {"steps": ["b", "a"]}, gold), ORDER)
    assert row_scores(said(gold | {"steps": ["b", "a"]}, gold), ORDER)["right"] == 4


def test_a_repaired_answer_is_wrong_unless_the_spec_accepts_it() -> None:
    fenced = said(f"```json\n{json.dumps(GOLD)}\n```")
    scores = row_scores(fenced, ORDER)
    assert (scores["correct"], scores["repaired"], scores["strict"], scores["claimed"]) == (0, 1, 0, 0)
    lenient = ORDER.model_copy(update={"accept_repaired": True})
    assert is_right(fenced, lenient) and row_scores(fenced, lenient)["f1"] == 1


def test_claims_are_counted_field_by_field() -> None:
    answer = {"name": "Bob", "items": ["tea", "jam"], "total": 5, "note": "x"}
    read = read_json(said(answer), ORDER)
    assert read.counts() == (2, 5, 4)  # tea and total are right; name, jam and note are not
    assert not read.complies
    assert row_scores(said(answer), ORDER)["f1"] == pytest.approx(4 / 9)


def test_null_claims_nothing() -> None:
    gold = {"name": None, "items": [], "total": 5}
    assert read_json(said(gold, gold), ORDER).counts() == (1, 1, 1)
    assert is_right(said(gold, gold), ORDER)
    assert not is_right(said(gold | {"name": "x"}, gold), ORDER)


@pytest.mark.parametrize("status", ["truncated", "empty", "error"])
def test_a_failed_generation_is_never_right_whatever_text_it_left(status: str) -> None:
    for output, gold in ((ORDER, json.dumps(GOLD)), (TextOutput(), "yes"), (LabelsOutput(labels=["a", "b"]), "a")):
        failed = row(1, gold, gold, status=status)
        assert not is_right(failed, output)
        assert not is_valid(failed, output)


def test_an_error_scores_nothing_even_when_the_input_stands_in_the_answer() -> None:
    failed = row(1, "refund the order", "refund the order", status="error", error="TimeoutError: 30 s")
    scores = row_scores(failed, TextOutput())
    assert {scores[name] for name in ("correct", "rougeLsum", "chrf", "bleu", "facts")} == {0.0}


def test_only_the_final_answer_is_compared_where_the_spec_marks_it() -> None:
    output = TextOutput(extract=r"#### (.+)")
    gold = "3 + 4 = 7\n#### 1,007"
    assert is_right(row(1, gold, "adding up\n#### 12\nno:\n#### $1007.00"), output)
    assert not is_right(row(1, gold, "the answer is 1,007"), output)
    assert not is_right(row(1, gold, "#### 1008"), output)
    assert not is_valid(row(1, gold, "the answer is 1,007"), output)


def test_final_answers_as_numbers_and_as_texts() -> None:
    assert same_answer("1,000", "1000.0") and same_answer("-$5", "-5") and same_answer(" Paris", "Paris")
    assert not same_answer("5%", "50") and not same_answer("paris", "Paris")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"pattern": r"[A-Z].*\."}, "no capital."),
        ({"max_chars": 5}, "too long"),
        ({"required": ["Regards"]}, "Bye"),
        ({"forbidden": ["lol"]}, "ok lol"),
    ],
)
def test_the_form_of_a_text(asked: dict, text: str) -> None:
    assert not is_valid(row(1, "x", text), TextOutput(**asked))
    assert is_valid(row(1, "x", text), TextOutput())


def test_values_of_a_metric_per_row() -> None:
    given = [row(1, "a b c", "a b c"), row(2, "a b c", "x")]
    assert metric_values(given, "rougeLsum", None) == [1.0, 0.0]
    assert metric_values(given, "exact", TextOutput()) == [1.0, 0.0]
    with pytest.raises(ValueError, match="macro_f1 is not a mean"):
        metric_values(given, "macro_f1", ["a", "b"])


CALL = '<tool_call>{"name": "look_up", "arguments": {"city": "Rome", "days": 2}}</tool_call>'


@pytest.mark.parametrize(
    ("said", "same"),
    [
        (CALL, True),
        ('<tool_call>\n{"arguments": {"days":2,"city":"\\u0052ome"}, "name": "look_up"}\n</tool_call>', True),
        (CALL.replace("Rome", "Milan"), False),
        (CALL.replace("look_up", "find"), False),
        (CALL.replace("days", "hours"), False),
        (CALL + CALL, False),
        ("Let me see. " + CALL, False),
        (CALL.replace("}}", "}"), False),
        ("no call", False),
    ],
)
def test_calls_are_compared_by_what_they_call(said: str, same: bool) -> None:
    assert same_calls(said, CALL) is same
    assert is_right({"status": "ok", "text": said, "gold": CALL}, TextOutput()) is same


def test_json_that_is_no_call_is_text() -> None:
    assert not same_calls('{"a": 1}', '{"a":1}')
