"""A rollout goes on when the candidate is proven not worse, and ends when it is surely worse."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from finetune_pipeline.evaluation.statistics.betting import not_worse_evidence
from finetune_pipeline.production.rollout import (
    SHADOW,
    Rollout,
    judge,
    next_percent,
    question_losses,
    stages_of,
)
from finetune_pipeline.report.page import page_html
from finetune_pipeline.report.rollout_page import rollout_page
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.unit.production.test_shadow import row, said, spec
from finetune_pipeline_tests.unit.production.test_share import row as shared_row

NOW = datetime(2026, 7, 1, tzinfo=UTC)
PAIR = ("t:1", "t:2")


def rolled(kind: str = "labels", **keys: Any) -> TaskSpec:
    keys = {"shadow_rows": 100, "share": [10, 50], "share_rows": 20, "margin": 0.05} | keys
    return TaskSpec.model_validate(spec(kind, low_score=0.5).model_dump(exclude_unset=True) | {"rollout": keys})


def stage(percent: int = SHADOW) -> Rollout:
    return Rollout(1, 2, percent, "2026-05-01T00:00:00Z")


def same(i: int) -> dict[str, Any]:
    return row(i, **said("bug"))


def test_questions_on_which_both_agree_prove_it_without_a_person() -> None:
    few = judge([same(i) for i in range(99)], rolled(), stage(), NOW)
    assert (few.action, few.why) == ("wait", "both have answered 99 of 100 questions")
    judged = judge([same(i) for i in range(100)], rolled(), stage(), NOW)
    assert judged.action == "advance" and judged.undecided == 0
    assert judged.needed == pytest.approx(20) and judged.evidence > 20
    assert "surely not worse by more than 5.0%" in judged.why
    much = judge([same(i) for i in range(600)], rolled(), stage(), NOW)
    assert "(evidence over 1,000,000, 20 needed)" in much.why


def test_different_answers_count_against_it_until_a_person_decides() -> None:
    rows = [same(i) for i in range(100)] + [row(100 + i) for i in range(20)]
    rows = rows[100:] + rows[:100]
    judged = judge(rows, rolled(), stage(), NOW)
    assert (judged.action, judged.undecided) == ("wait", 20)
    assert judged.why.endswith(": 20 different answers wait for a person and count against it until then")
    decided = [row(100 + i, right="howto" if i % 2 else "bug") for i in range(20)] + rows[20:]
    decided += [same(200 + i) for i in range(300)]
    judged = judge(decided, rolled(), stage(), NOW)
    assert (judged.action, judged.undecided) == ("advance", 0)


def test_the_loss_of_a_question_is_what_was_decided_first_and_one_left_out_stays_a_loss() -> None:
    rows = [
        row(1, right="bug"),  # the champion alone is right
        row(2, right="howto"),  # the candidate alone
        row(3, right="other"),  # neither
        row(4),
        row(5, reviewed=True),  # left out
        same(6),
        row(7, **said(None)),  # no answer
        row(8, input="text 2", right="bug"),  # a repeat
    ]
    assert question_losses(rows, rolled(), PAIR) == ([1, -1, 0, 1, 1, 0, 1], 2)
    other = [row(9, shadow={**row(9)["shadow"], "model_version": "t:3"})]
    assert question_losses(rows + other, rolled(), PAIR) == question_losses(rows, rolled(), PAIR)


def test_a_candidate_that_reviewers_find_worse_ends_it_in_any_stage() -> None:
    rows = [same(i) for i in range(200)] + [row(200 + i, right="bug") for i in range(12)]
    for percent in (SHADOW, 10, 50):
        judged = judge(rows, rolled(), stage(percent), NOW)
        assert judged.action == "stop" and "reviewers' decisions show that version 1 is surely better" in judged.why


def test_complaints_end_it_and_enough_old_answers_without_more_of_them_go_on() -> None:
    def rows(n: int, day: int = 1, **more: Any) -> list[dict[str, Any]]:
        at = f"2026-06-{day:02}T10:00:00+00:00"
        return [shared_row(i, i % 10 == 0, 10, timestamp=at, **more) for i in range(n)]

    judged = judge(rows(200), rolled(), stage(10), NOW)
    assert (judged.action, judged.why) == ("advance", "it has given 20 answers at 10% and is not surely worse")
    assert judge(rows(190), rolled(), stage(10), NOW).action == "wait"
    new = judge(rows(200, day=30), rolled(), stage(10), datetime(2026, 6, 30, 12, tzinfo=UTC))
    assert new.action == "wait" and "20 more are too new for feedback" in new.why
    assert judge(rows(200), rolled(), stage(50), NOW).action == "wait", "answers of an earlier share do not count"
    bad = [shared_row(i, True, 10, flag="bad", reported=f"2026-06-01T10:00:{i:02}") for i in range(9)]
    judged = judge([*rows(200), *bad], rolled(), stage(10), NOW)
    assert judged.action == "stop" and judged.why.startswith("its answers are surely more often complained about")
    good = [shared_row(i, False, 10, flag="bad", reported="2026-06-02") for i in range(99)]
    assert judge([*rows(200), *good], rolled(), stage(10), NOW).action == "advance", "the champion's own complaints"


def test_a_candidate_that_fails_too_often_does_not_go_on_though_nobody_complains() -> None:
    """The champion answers in its place: as champion it would have nobody behind it."""

    def failing(every: int) -> list[dict[str, Any]]:
        return [shared_row(i, True, 10, **({"model_version": "t:1"} if i % every == 0 else {})) for i in range(300)]

    judged = judge(failing(10), rolled(), stage(10), NOW)
    assert judged.action == "wait"
    assert judged.why.startswith("the champion answered 30 of its 300 rows at 10% in its place, more than 5.0%")
    assert judge(failing(50), rolled(), stage(10), NOW).action == "advance"
    assert judge(failing(1), rolled(), stage(10), NOW).action == "wait"


def test_one_user_s_answers_alone_take_no_candidate_to_all_users() -> None:
    busy = [shared_row(i, True, 10, user="bot") for i in range(500)]
    others = [shared_row(i, True, 10) for i in range(17)]
    judged = judge([*busy, *others[:14]], rolled(), stage(10), NOW)
    assert (judged.action, judged.why) == (
        "wait",
        "it has given 19 of 20 answers at 10%; 495 more do not count, since one user or conversation counts for at most 5 "
        "(logs.max_user_share); 15 asked",
    )
    assert judge([*busy, *others[:15]], rolled(), stage(10), NOW).action == "advance"
    alone = TaskSpec.model_validate(rolled().model_dump() | {"logs": {"max_user_share": 1}})
    assert judge(busy, alone, stage(10), NOW).action == "advance", "a single client, as its owner says"
    failed = [made | {"model_version": "t:1"} for made in busy]
    regular = [shared_row(i, True, 10) for i in range(200)]
    assert judge([*failed, *regular], rolled(), stage(10), NOW).action == "advance", "one user's unlucky question"


def test_answers_dated_before_their_stage_are_as_old_as_the_stage() -> None:
    """A server whose clock is wrong must not cut short the days that people have for feedback."""
    rows = [shared_row(i, True, 10, timestamp="2001-01-01T00:00:00+00:00") for i in range(30)]
    begun = Rollout(1, 2, 10, "2026-06-30T12:00:00.000000Z")
    judged = judge(rows, rolled(), begun, NOW)
    assert judged.action == "wait" and "30 more are too new for feedback" in judged.why
    ahead = [shared_row(i, True, 10, timestamp="2031-01-01T00:00:00+00:00") for i in range(30)]
    assert judge(ahead, rolled(), begun, datetime(2026, 8, 1, tzinfo=UTC)).action == "wait"


def test_a_stage_that_task_yaml_does_not_have_any_more_is_shown_and_left_for_the_next_larger_share() -> None:
    made = rolled(share=[5, 30])
    assert stages_of(made, 10) == ["shadow", "share-5", "share-10", "share-30", "champion"]
    page = page_html(rollout_page(made, stage(10), judge([], made, stage(10), NOW), "it waits", []))
    assert "since 2026-05-01 00:00" in page
    assert (next_percent(made, 10), next_percent(made, 50)) == (30, None)


def test_stages_follow_one_another() -> None:
    made = rolled(share=[10, 50])
    assert stages_of(made, SHADOW) == ["shadow", "share-10", "share-50", "champion"]
    assert [next_percent(made, now) for now in (SHADOW, 10, 50, 20)] == [10, 50, None, 50]


@pytest.mark.parametrize("disagreement", [0.05, 0.3])
def test_a_candidate_worse_by_the_margin_is_rarely_called_not_worse_however_often_one_looks(
    disagreement: float,
) -> None:
    rng, margin = np.random.default_rng(1), 0.05
    chances = [(disagreement + margin) / 2, (disagreement - margin) / 2, 1 - disagreement]
    draws = rng.choice([1, -1, 0], (400, 1000), p=chances)
    crossed = sum(bool((not_worse_evidence(losses, margin) >= 20).any()) for losses in draws)
    assert crossed <= 31, "20 of 400 expected at the most; 31 with a chance of less than 1%"
    equal = rng.choice([1, -1, 0], (100, 1000), p=[disagreement / 2, disagreement / 2, 1 - disagreement])
    proven = sum(bool((not_worse_evidence(losses, margin) >= 20).any()) for losses in equal)
    assert proven >= (95 if disagreement < 0.1 else 55)
