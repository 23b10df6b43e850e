"""Which answers in the logs are a teacher's rows, and why others are not."""

from typing import Any

import pytest

from finetune_pipeline.findings import FindingsError
from finetune_pipeline.production.choosing import REFUSAL
from finetune_pipeline.production.logged_answers import (
    author_of,
    distinct_questions,
    logged_answers,
    logged_digest,
    question_of,
)
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline_tests.unit.production import test_choosing


def spec(**logs: Any) -> TaskSpec:
    made = test_choosing.spec(**logs).model_dump(exclude_unset=True)
    return TaskSpec.model_validate({**made, "teacher": {"from_logs": True, "models": ["large"], "allowed": True}})


def row(n: int, text: str, output: str = "red", **more: Any) -> dict[str, Any]:
    return test_choosing.row(n, text, output, **{"model_version": "large", **more})


def reasons(rows: list[dict[str, Any]], *by_people: str, **logs: Any) -> dict[str, str]:
    return {answer.log: answer.reason for answer in logged_answers(spec(**logs), rows, by_people)}


def test_a_question_is_all_turns_but_the_systems_and_a_last_answer() -> None:
    turns = [("system", "Be short."), ("user", "One?"), ("assistant", "Yes."), ("user", "TWO  things")]
    messages = [{"role": role, "content": content} for role, content in turns]
    question = question_of(messages)
    assert question == question_of([*messages, {"role": "assistant", "content": "No."}])
    assert question == question_of([*messages[1:3], {"role": "user", "content": "two things!"}])
    assert question != question_of(messages[:2]) and "yes" in question and "short" not in question
    assert question_of(messages[:3]) == question_of(messages[:2]) and question_of(messages[:1]) == question_of([]) == ""


def test_the_author_is_who_wrote_the_answer() -> None:
    assert author_of({"model_version": "t:1"}) == author_of({"model_version": "t:1", "answered_by": None}) == "t:1"
    assert author_of({"model_version": "t:1", "answered_by": "large"}) == "large"
    assert author_of({"model_version": "t:1", "answered_by": REFUSAL}) == "t:1", "a refusal is written by nobody"


def test_only_the_teachers_answers_count_and_each_says_why_it_is_no_row() -> None:
    rows = [
        row(1, "fire one"),
        row(2, "fire two", model_version="t:1"),
        row(3, "fire three", model_version="t:1", answered_by="large"),
        row(4, "fire four", flag="wrong"),
        row(5, "fire five", left_out=True),
        row(6, "fire six", score=0.4),
        row(7, "Fire seven"),
        row(8, "fire  SEVEN", model_version="t:1", correction="blue"),
    ]
    assert reasons(rows, low_score=0.5) == {
        "r1": "", "r3": "", "r4": "objected", "r5": "left_out", "r6": "objected", "r7": "corrected",
    }  # fmt: skip
    question = question_of([{"role": "user", "content": "fire five"}])
    assert reasons(rows, question)["r5"] == "judges" and reasons(rows)["r6"] == ""


def test_other_models_answers_change_no_digest_and_none_of_the_teacher_is_told() -> None:
    rows = [row(1, "fire one"), row(2, "fire two", model_version="t:1")]
    assert logged_digest(spec(), rows) == logged_digest(spec(), rows[:1])
    assert logged_digest(spec(), rows) != logged_digest(spec(), [row(1, "fire one", "blue")])
    with pytest.raises(FindingsError, match=r"no row of the logs is an answer of .*they hold t:1 \(1 rows\)"):
        logged_digest(spec(), rows[1:])
    many = [row(n, f"fire {n}", model_version=f"m{n}:1") for n in range(7)]
    with pytest.raises(FindingsError, match=r"they hold m0:1 \(1 rows\), .*m4:1 \(1 rows\), … \[") as caught:
        logged_digest(spec(), many)
    assert "m5" not in str(caught.value)
    with pytest.raises(FindingsError, match="they hold no answers"):
        logged_digest(spec(), [])


def test_a_question_asked_twice_is_one_with_the_words_of_the_first() -> None:
    rows = [row(1, "Fire one!"), row(2, "water"), row(3, "fire one")]
    questions = distinct_questions(spec(), rows, logged_answers(spec(), rows))
    assert [(q.messages[-1]["content"], q.tags) for q in questions] == [
        ("Fire one!", ["log:r1", "log:r3"]),
        ("water", ["log:r2"]),
    ]
