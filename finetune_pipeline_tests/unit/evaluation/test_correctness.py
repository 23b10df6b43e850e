"""Scores of single answers: what is right, what is only in form, and what a repaired answer is worth."""

import json
import math

import pytest

from finetune_pipeline.data.answer_equality import answer_key, same_answer, same_final_answer
from finetune_pipeline.evaluation.correctness import (
    answer_of,
    complies,
    is_right,
    is_valid,
    likelihood_label,
    likelihood_row,
    read_json,
)
from finetune_pipeline.spec.outputs import JsonOutput, LabelsOutput, TextOutput
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, row

TEXTS = {"type": "array", "items": {"type": "string"}}
FIELDS = {"name": {"type": ["string", "null"]}, "items": TEXTS, "steps": TEXTS, "total": {"type": "number"}}
CLOSED = {"required": ["name", "items", "total"], "additionalProperties": False}
ORDER = JsonOutput(json_schema={"type": "object", "properties": FIELDS, **CLOSED}, unordered=["items"])
GOLD = {"name": "Ada", "items": ["tea", "milk"], "total": 5}


def said(text: str | dict, gold: dict = GOLD, **changes) -> dict:
    return row(1, json.dumps(gold), text if isinstance(text, str) else json.dumps(text), **changes)


def test_an_extraction_is_right_as_a_value() -> None:
    assert is_right(said({"total": 5.0, "items": ["milk", "tea"], "name": "Ada"}), ORDER), "the order is no matter"
    for change in ({"items": ["tea"]}, {"items": ["tea", "milk", "milk"]}, {"name": "ada"}, {"total": True}):
        assert not is_right(said(GOLD | change), ORDER), change
    for text in ('"total": 5,}', '"name": "Ada", "total": 5}'):  # no JSON; a key that is there twice
        assert not is_right(said('{"name": "Ada", "items": ["tea", "milk"], ' + text), ORDER), text


def test_a_repaired_answer_is_wrong_unless_the_spec_accepts_it() -> None:
    fenced = said(f"```json\n{json.dumps(GOLD)}\n```")
    read = read_json(fenced, ORDER)
    assert not is_right(fenced, ORDER) and (read.parse, read.counts()) == ("repaired", (0, 0, 4))
    lenient = ORDER.model_copy(update={"accept_repaired": True})
    assert is_right(fenced, lenient) and read_json(fenced, lenient).counts() == (4, 4, 4)


def test_claims_are_counted_field_by_field() -> None:
    read = read_json(said({"name": "Bob", "items": ["tea", "jam"], "total": 5, "note": "x"}), ORDER)
    assert read.counts() == (2, 5, 4)  # tea and total are right; name, jam and note are not
    assert not complies(read, ORDER)
    null = {"name": None, "items": [], "total": 5}
    assert read_json(said(null, null), ORDER).counts() == (1, 1, 1), "null claims nothing"
    assert is_right(said(null, null), ORDER) and not is_right(said(null | {"name": "x"}, null), ORDER)
    steps = GOLD | {"steps": ["a", "b"]}
    turned = said(steps | {"steps": ["b", "a"]}, steps)
    assert is_right(said(steps, steps), ORDER)
    assert not is_right(turned, ORDER) and read_json(turned, ORDER).counts()[0] == 4, "this list is not unordered"


@pytest.mark.parametrize("status", ["truncated", "empty", "error"])
def test_a_failed_generation_is_never_right_whatever_text_it_left(status: str) -> None:
    for output, gold in ((ORDER, json.dumps(GOLD)), (TextOutput(), "yes"), (LabelsOutput(labels=["a", "b"]), "a")):
        failed = row(1, gold, gold, status=status)
        assert not is_right(failed, output) and not is_valid(failed, output)
    assert answer_of(row(1, "bug", "bug", status=status), LABELS) is None


def test_only_the_final_answer_is_compared_where_the_spec_marks_it() -> None:
    output = TextOutput(extract=r"#### (.+)")
    gold = "3 + 4 = 7\n#### 1,007"
    assert is_right(row(1, gold, "adding up\n#### 12\nno:\n#### $1007.00"), output)
    assert not is_right(row(1, gold, "the answer is 1,007"), output)
    assert not is_right(row(1, gold, "#### 1008"), output)
    assert not is_valid(row(1, gold, "the answer is 1,007"), output)
    assert (
        same_final_answer("1,000", "1000.0") and same_final_answer("-$5", "-5") and same_final_answer(" Paris", "Paris")
    )
    assert not same_final_answer("5%", "50") and not same_final_answer("paris", "Paris")
    assert same_final_answer("1,00,000", "100000") and same_final_answer("3,", "3"), "a comma behind it is punctuation"
    digits = "7" * 2_000_000
    for same in (("-0", "0.00"), ("007", "7.0"), (digits, f"{digits}.0")):
        assert len({answer_key(f"#### {number}", output) for number in same}) == 1
    for several, other_reading in (("1,2", "12"), ("10,5", "105"), ("1,2,3", "123"), ("£5", "$5")):
        assert not same_final_answer(several, other_reading), several


def test_the_form_of_a_text() -> None:
    for rule in ({"pattern": r"[A-Z].*\."}, {"max_chars": 5}, {"required": ["Regards"]}, {"forbidden": ["lol"]}):
        assert not is_valid(row(1, "x", "ok lol"), TextOutput(**rule)), rule
        assert is_valid(row(1, "x", "ok lol"), TextOutput())


CALL = '<tool_call>{"name": "look_up", "arguments": {"city": "Rome", "days": 2}}</tool_call>'


def test_calls_are_compared_by_what_they_call() -> None:
    same = '<tool_call>\n{"arguments": {"days":2,"city":"\\u0052ome"}, "name": "look_up"}\n</tool_call>'
    assert all(is_right({"status": "ok", "text": text, "gold": CALL}, TextOutput()) for text in (CALL, same))
    different = [
        CALL.replace(*change) for change in (("Rome", "Milan"), ("look_up", "find"), ("days", "hours"), ("}}", "}"))
    ]
    for text in (*different, CALL + CALL, "Let me see. " + CALL, "no call"):
        assert not is_right({"status": "ok", "text": text, "gold": CALL}, TextOutput()), text
    assert not same_answer('{"a": 1}', '{"a":1}', TextOutput()), "JSON that is no call is text"
    twice = CALL.replace('"name"', '"name": "delete", "name"')
    assert same_answer(CALL.replace("2", "2.0"), CALL, TextOutput())
    assert not same_answer(twice, CALL, TextOutput()), "readers disagree about equal keys"
    deep = CALL.replace('"Rome"', "[" * 900 + "]" * 900)
    assert same_answer(deep, deep, TextOutput()) and not same_answer(deep, CALL, TextOutput())


def test_a_label_is_read_letter_by_letter() -> None:
    assert all(answer_of(row(1, "bug", text), LABELS) == "bug" for text in ("bug", " bug\n"))
    for text in ("Bug", "bug.", '"bug"', "bug billing", "Label: bug", "", "bu"):
        assert answer_of(row(1, "bug", text), LABELS) is None, text


def test_the_likeliest_label_and_that_failures_stay_failures() -> None:
    assert likelihood_label([-3.0, -0.5, -0.6], LABELS) == "billing"
    assert likelihood_label([-1.0, -1.0, -2.0], LABELS) == "bug"
    for unusable in ([], [math.nan, -1.0, -2.0], [-math.inf] * 3):
        assert likelihood_label(unusable, LABELS) is None
    with pytest.raises(ValueError, match="2 label scores for 3 labels"):
        likelihood_label([-1.0, -2.0], LABELS)
    predictions = [row(1, "bug", "I think bug", label_scores=[-0.1, -2.0, -3.0]), row(2, "bug", "bug", label_scores=[])]
    predictions.append(row(3, "bug", "", status="error", error="out of memory"))
    answered = [likelihood_row(prediction, LABELS) for prediction in predictions]
    assert [(r["text"], r["status"]) for r in answered] == [("bug", "ok"), ("", "empty"), ("", "error")]
