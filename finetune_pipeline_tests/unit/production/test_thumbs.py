"""Feedback in the logs as preferences: what each kind says, what says nothing, and what is held back."""

from typing import Any

import pytest

from finetune_pipeline.production.thumbs import logged_preferences
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.unit.production.test_choosing import ORDER, row, spec

KEEP_ALL = {"judging_share": 0.0}
VERSIONS = {"champion": "t:1", "model_version": "t:2"}


def text_task(method: str = "dpo") -> TaskSpec:
    """A task of free text, in which reviewers compare two answers."""
    declared = {"name": "t", "description": "d", "system_prompt": "s", "output": {"kind": "text"}, "logs": KEEP_ALL}
    return TaskSpec.model_validate({**declared, "training": {"refine": {"method": method}}})


def compared(n: int, choice: str, said: dict[str, str] = VERSIONS, **more: Any) -> dict[str, Any]:
    """A row that both models answered, and what a reviewer said of the answers."""
    second = {**VERSIONS, "output": "by candidate", "champion_output": "by champion", "problem": ""}
    second |= {"seconds": 0.1, "champion_seconds": 0.1, **more.pop("shadow", {})}
    preferred = {**said, "choice": choice, "decided": ""}
    return row(n, f"question {n}", "by champion", shadow=second, preferred=preferred, **more)


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


def test_the_preferred_of_two_answers_is_liked_and_the_other_disliked() -> None:
    rows = [compared(1, "champion"), compared(2, "shadow")]
    first, second = logged_preferences(text_task(), rows).preferences
    assert (first.chosen, first.rejected, first.versions) == ("by champion", "by candidate", ("t:1", "t:2"))
    assert (second.chosen, second.rejected, second.versions) == ("by candidate", "by champion", ("t:2", "t:1"))
    assert (second.log, second.origin, second.user_text, second.place) == ("r2", "production", "question 2", "f:2")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([compared(1, "equal")], "compared_equally_good"),
        ([compared(1, "neither")], "compared_none_acceptable"),
        ([compared(1, "champion", shadow={"output": None})], "compared_with_no_answer"),
        ([compared(1, "shadow", shadow={"champion_output": " "})], "compared_with_no_answer"),
    ],
)
def test_a_comparison_without_two_answers_or_a_better_one_is_counted(rows: list[Any], reason: str) -> None:
    logged = logged_preferences(text_task(), rows)
    assert (logged.preferences, logged.unused, logged.digest()) == ([], {reason: 1}, "")


def test_a_comparison_of_other_versions_or_of_a_row_that_was_left_out_says_nothing() -> None:
    rows = [compared(1, "shadow", {**VERSIONS, "model_version": "t:9"}), compared(2, "shadow", left_out=True)]
    logged = logged_preferences(text_task(), rows)
    assert (logged.preferences, logged.unused) == ([], {})


def test_a_reviewer_who_saw_both_answers_outweighs_a_thumb_but_no_correction() -> None:
    thumbed, corrected = compared(1, "champion", flag="rude"), compared(2, "champion", correction="right")
    elsewhere = {**compared(3, "champion", flag="late"), "output": "by the fallback"}
    logged = logged_preferences(text_task(), [thumbed, corrected, elsewhere])
    pair = ("by champion", "by candidate")
    found = sorted((p.log, p.chosen or "", p.rejected) for p in logged.preferences)
    assert found == [
        ("r1", *pair),
        ("r2", *pair),
        ("r2", "right", "by champion"),
        ("r3", "", "by the fallback"),
        ("r3", *pair),
    ]
    assert logged.unused == {"thumb_on_compared_answer": 1}
    with_kto = logged_preferences(text_task("kto"), [corrected])
    assert [(p.chosen, p.rejected) for p in with_kto.preferences] == [("right", "by champion")]
    assert with_kto.unused == {"comparison_of_corrected_answer": 1}, "it would like what the correction dislikes"


def test_what_reviewers_compared_is_not_held_back_but_reserved_like_other_questions() -> None:
    one_user = [compared(i, "champion", user="one") for i in range(200)]
    assert len(logged_preferences(text_task(), one_user).preferences) == 200
    task = text_task().model_copy(update={"logs": spec(judging_share=0.25).logs})
    logged = logged_preferences(task, one_user)
    assert 25 < logged.unused["reserved_for_evaluation"] < 80
    assert len(logged.preferences) == 200 - logged.unused["reserved_for_evaluation"]
