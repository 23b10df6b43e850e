"""Feedback in the logs as preferences: what each kind says, what says nothing, and what is held back."""

from typing import Any

import pytest

from finetune_pipeline.production.thumbs import logged_preferences
from finetune_pipeline_tests.unit.production.test_choosing import ORDER, row, spec

KEEP_ALL = {"judging_share": 0.0}


@pytest.mark.parametrize(
    ("feedback", "sides"),
    [
        ({"correction": "blue"}, ("blue", "red")),
        ({"correction": "red"}, ("red", None)),
        ({"correction": "red", "flag": "wrong"}, ("red", None)),
        ({"flag": "wrong"}, (None, "red")),
        ({"score": 0.2}, (None, "red")),
        ({"score": 0.5}, ("red", None)),
        ({"score": 0.9, "flag": "wrong"}, (None, "red")),
    ],
)
def test_what_feedback_says(feedback: dict[str, Any], sides: tuple[str | None, str | None]) -> None:
    (kept,) = logged_preferences(spec(low_score=0.5, **KEEP_ALL), [row(1, "fire one", **feedback)]).preferences
    assert (kept.chosen, kept.rejected) == sides
    assert (kept.log, kept.origin, kept.user_text) == ("r1", "production", "fire one")


def test_what_says_nothing_is_counted() -> None:
    rows = [row(1, "no feedback"), row(2, "left out", flag="x", left_out=True), row(3, "fire", score=0.9)]
    rows += [row(4, "empty", output="", flag="x"), row(5, "liked", output="It is red!", score=0.9)]
    logged = logged_preferences(spec(**KEEP_ALL), rows)
    assert logged.preferences == [] and logged.unused == {"score_without_low_score": 2, "empty_answer": 1}
    logged = logged_preferences(spec(low_score=0.5, **KEEP_ALL), rows)
    assert [p.log for p in logged.preferences] == ["r3"]
    assert logged.unused == {"liked_answer_out_of_form": 1, "empty_answer": 1}


def test_poison_is_held_back_as_among_corrections() -> None:
    rows = [row(i, f"fire number {i} {'abcdefghijklmnopqrstuvwxyz'[i % 26] * 9}", flag="bad") for i in range(40)]
    rows += [row(100 + i, f"water {chr(97 + i) * 12}", flag="bad", user="one") for i in range(20)]
    rows.append(row(200, ORDER, flag="bad"))
    logged = logged_preferences(spec(**KEEP_ALL), rows)
    assert {held.rule for held in logged.held} == {"poison_user_share", "poison_instruction"}
    assert len(logged.preferences) + len(logged.held) == len(rows)
    assert sum(p.log.startswith("r1") and len(p.log) == 4 for p in logged.preferences if p.log) <= 6


def test_the_share_of_questions_that_may_judge_a_model_is_reserved() -> None:
    rows = [row(i, f"fire number {i}", flag="bad", user=None) for i in range(400)]
    logged = logged_preferences(spec(judging_share=0.25, max_family_share=1.0), rows)
    assert 60 < logged.unused["reserved_for_evaluation"] < 140
    assert len(logged.preferences) + len(logged.held) + sum(logged.unused.values()) == 400
    again = logged_preferences(spec(judging_share=0.25, max_family_share=1.0), rows[::-1])
    assert {p.log for p in again.preferences} == {p.log for p in logged.preferences}


def test_the_digest_changes_with_preferences_only() -> None:
    rows = [row(1, "fire one", flag="x")]
    before = logged_preferences(spec(**KEEP_ALL), rows).digest()
    assert before == logged_preferences(spec(**KEEP_ALL), [*rows, row(2, "unjudged")]).digest()
    assert before != logged_preferences(spec(**KEEP_ALL), [*rows, row(2, "judged", flag="x")]).digest()
    assert logged_preferences(spec(**KEEP_ALL), []).digest() == ""
