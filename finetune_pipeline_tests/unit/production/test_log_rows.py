"""What a log line may say: which values are read, which are refused, and with which words."""

from typing import Any

import pytest

from finetune_pipeline.production.log_rows import feedback_problems, is_feedback, problems_of
from finetune_pipeline_tests.unit.production.streams import make_spec

JSON = {
    "kind": "json",
    "json_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
LINE: dict[str, Any] = {
    "id": "r1",
    "timestamp": "2026-05-01T10:00:00Z",
    "input": "hello",
    "output": "bug",
    "model_version": "7",
}


def told(**changes: Any) -> list[str]:
    """The rules and messages of a line that differs so from a sound one; None: the key is missing."""
    line = {key: value for key, value in (LINE | changes).items() if value is not None}
    return [f"{f.rule}: {f.message}" for f in problems_of(line, "a:1", make_spec())]


def of_feedback(feedback: Any, output: dict[str, Any] | None = None) -> list[str]:
    return [f.rule for f in feedback_problems(feedback, "a:1", make_spec(output))]


@pytest.mark.parametrize(
    ("key", "right", "wrong", "kind"),
    [
        ("probability", (0, 1, 0.5), (-0.01, 1.01, True, "0.5"), "a number from 0 to 1"),
        ("passed_on", (True, False), (0, "yes"), "true or false"),
        ("answered_by", ("large",), (7,), "text"),
        ("field_probabilities", ({}, {"city": 1, "street": None}), ([0.5], {"city": 2}), "an object of numbers from 0 to 1"),
        ("fields_passed_on", ([], ["city"]), ("city", [1]), "a list of texts"),
    ],
)  # fmt: skip
def test_how_sure_an_answer_is_has_its_form(
    key: str, right: tuple[Any, ...], wrong: tuple[Any, ...], kind: str
) -> None:
    assert [told(**{key: value}) for value in right] == [[]] * len(right)
    assert [told(**{key: value}) for value in wrong] == [[f"log.wrong_type: '{key}' is not {kind}"]] * len(wrong)


def test_an_answer_may_be_empty_and_nothing_else() -> None:
    assert told() == told(output="") == []
    for key in ("id", "model_version"):
        for value in (None, " ", 7):
            assert told(**{key: value}) == [f"log.missing_field: {key!r} is missing, empty or not text"]
    assert told(output=7) == ["log.missing_field: 'output' is missing, empty or not text"]
    assert told(input=" ") == ["log.missing_field: neither 'messages' nor 'input' contains a question"]
    assert told(input=None, messages=[{"role": "system", "content": "s"}]) == [
        "log.missing_field: 'messages' have no text of the role 'user'"
    ]


def test_every_problem_of_a_line_is_told_at_once() -> None:
    rules = [line.partition(":")[0] for line in told(id="", timestamp="x", user=["ann"], probability=2, feedback=[])]
    assert rules == ["log.missing_field", "log.timestamp", "log.wrong_type", "log.wrong_type", "log.wrong_type"]


def test_feedback_to_another_line_needs_neither_question_nor_answer() -> None:
    late = {"output": None, "input": None, "model_version": None}
    assert told(**late, feedback={"flag": "rude"}) == []
    assert len(told(**late)) == 3, "without feedback it is an answer that lacks everything"
    assert is_feedback({"feedback": {}}) and not is_feedback({"feedback": {}, "output": ""}) and not is_feedback([])


@pytest.mark.parametrize("output", [None, JSON])
def test_a_flag_or_a_score_alone_is_sound_feedback(output: dict[str, Any] | None) -> None:
    for feedback in (None, {}, {"flag": True}, {"flag": "rude"}, {"flag": None, "score": 0.5}, {"correction": None}):
        assert of_feedback(feedback, output) == [], feedback


def test_a_correction_is_an_answer_of_the_task() -> None:
    assert of_feedback({"correction": " bug "}) == of_feedback({"label": "bug", "correction": "bug "}) == []
    assert of_feedback({"correction": "bugs"}) == ["log.unknown_label"]
    assert of_feedback({"label": "bug", "correction": "howto"}) == ["log.two_answers"]
    assert of_feedback({"correction": '{"city": "Rome"}'}, JSON) == []
    assert [rule.partition("_")[0] for rule in of_feedback({"correction": '{"town": 1}'}, JSON)] == ["log.answer"]
    assert of_feedback({"correction": 7}) == of_feedback({"correction": {"a": 1}}, JSON) == ["log.wrong_type"]
