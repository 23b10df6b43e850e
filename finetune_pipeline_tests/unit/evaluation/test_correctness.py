"""Scores of single answers: what is right, what is only in form, and what a repaired answer is worth."""

from __future__ import annotations

import json
import math

import pytest

from finetune_pipeline.evaluation.correctness import (
    answer_of,
    complies,
    is_right,
    is_valid,
    likelihood_label,
    likelihood_rows,
    read_json,
    same_answer,
    same_calls,
)
from finetune_pipeline.spec.outputs import JsonOutput, LabelsOutput, TextOutput
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, row

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
    assert read_json(said(gold | {"steps": ["b", "a"]}, gold), ORDER).counts()[0] == 4


def test_a_repaired_answer_is_wrong_unless_the_spec_accepts_it() -> None:
    fenced = said(f"```json\n{json.dumps(GOLD)}\n```")
    read = read_json(fenced, ORDER)
    assert not is_right(fenced, ORDER) and (read.parse, read.counts()) == ("repaired", (0, 0, 4))
    lenient = ORDER.model_copy(update={"accept_repaired": True})
    assert is_right(fenced, lenient) and read_json(fenced, lenient).counts() == (4, 4, 4)


def test_claims_are_counted_field_by_field() -> None:
    answer = {"name": "Bob", "items": ["tea", "jam"], "total": 5, "note": "x"}
    read = read_json(said(answer), ORDER)
    assert read.counts() == (2, 5, 4)  # tea and total are right; name, jam and note are not
    assert not complies(read, ORDER)


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


def test_a_label_is_read_letter_by_letter() -> None:
    assert all(answer_of(row(1, "bug", text), LABELS) == "bug" for text in ("bug", " bug\n"))
    for text in ("Bug", "bug.", '"bug"', "bug billing", "Label: bug", "", "bu"):
        assert answer_of(row(1, "bug", text), LABELS) is None, text
    assert [answer_of(row(1, "bug", "bug", status=status), LABELS) for status in ("truncated", "error")] == [None, None]


def test_the_likeliest_label() -> None:
    assert likelihood_label([-3.0, -0.5, -0.6], LABELS) == "billing"
    assert likelihood_label([-1.0, -1.0, -2.0], LABELS) == "bug"
    for unusable in ([], [math.nan, -1.0, -2.0], [-math.inf] * 3):
        assert likelihood_label(unusable, LABELS) is None
    with pytest.raises(ValueError, match="2 label scores for 3 labels"):
        likelihood_label([-1.0, -2.0], LABELS)


def test_rows_answered_by_likelihood_keep_failures() -> None:
    given = [
        row(1, "bug", "I think bug", label_scores=[-0.1, -2.0, -3.0]),
        row(2, "bug", "bug", label_scores=[]),
        row(3, "bug", "", status="error", error="out of memory"),
    ]
    answered = likelihood_rows(given, LABELS)
    assert [(r["text"], r["status"]) for r in answered] == [("bug", "ok"), ("", "empty"), ("", "error")]
