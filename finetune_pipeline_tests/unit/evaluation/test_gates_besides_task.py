"""Each gate beyond the task's own test: where it fires, where it does not, and that nothing missing passes."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.evaluation.gates.general_ability import general_ability
from finetune_pipeline.evaluation.gates.human_review import human_review
from finetune_pipeline.evaluation.gates.judge import judge
from finetune_pipeline.evaluation.judged_facts import Ability, JudgeFindings, People
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.unit.evaluation.rows import spec as label_spec


def spec(**gates: Any) -> TaskSpec:
    return label_spec(gates=gates)


def ability(drop: float, low: float, high: float, **more: Any) -> Ability:
    return Ability.model_validate({"items": 258, "n": 234, "drop": drop, "interval": [low, high], **more})


def text(before: float, rise: float, high: float) -> dict[str, Any]:
    return {"n": 24, "before": before, "after": before + rise, "rise": rise, "interval": [rise - 0.1, high]}


def test_a_small_loss_passes_and_a_large_one_is_stopped() -> None:
    fine = general_ability(spec(), ability(0.02, -0.02, 0.06))
    assert fine.passed
    assert (fine.measured, fine.threshold, fine.what_to_do) == (0.06, 0.1, "")
    lost = general_ability(spec(), ability(0.2, 0.14, 0.26))
    assert not lost.passed
    assert "-20.0 points on 234 questions" in lost.message and "a loss of 10.0 points must be ruled out" in lost.message
    assert not any("not shown either" in answer.message for answer in (fine, lost))
    assert "not shown either" not in general_ability(spec(), ability(0.2, 0.1, 0.3)).message, "surely at the limit"
    assert "Train more gently" in lost.what_to_do


def test_what_cannot_be_ruled_out_is_stopped_and_said_to_be_open() -> None:
    answer = general_ability(spec(), ability(0.05, -0.01, 0.11))
    assert not answer.passed
    assert "not shown either" in answer.message
    assert general_ability(spec(max_ability_loss=0.12), ability(0.05, -0.01, 0.11)).passed
    assert not general_ability(
        spec(max_ability_loss=0.11), ability(0.05, -0.01, 0.11)
    ).passed  # at the limit is not below


def test_a_benchmark_that_surely_loses_too_much_is_stopped_though_all_questions_together_are_not() -> None:
    def answer(low: Any) -> Ability:
        interval = [low, 0.4] if low is not None else None
        return ability(0.02, -0.02, 0.06, benchmarks={"arc": {"n": 40, "drop": 0.2, "interval": interval}})

    assert general_ability(spec(), answer(0.09)).passed
    stopped = general_ability(spec(), answer(0.1))
    assert not stopped.passed
    assert "arc surely loses 10.0 points" in stopped.message
    assert not general_ability(spec(), answer(None)).passed, "what was not measured does not pass"


def test_text_that_costs_much_more_is_stopped() -> None:
    fine = ability(0.0, -0.04, 0.04, text=text(1.2, 0.1, 0.2))
    assert general_ability(spec(), fine).passed
    worse = general_ability(spec(), ability(0.0, -0.04, 0.04, text=text(1.2, 0.5, 0.7)))
    assert not worse.passed
    assert "+41.7% bits (surely at most +58.3%; allowed +50%)" in worse.message
    assert general_ability(spec(max_text_loss=0.6), ability(0.0, -0.04, 0.04, text=text(1.2, 0.5, 0.7))).passed


@pytest.mark.parametrize(
    "facts",
    [
        None,
        {},
        {"items": 0},
        {"items": 9, "drop": float("nan"), "interval": [0.0, 0.1]},
        {"items": 9, "drop": 0.0, "interval": None},
        {
            "items": 9,
            "drop": 0.0,
            "interval": [-0.04, 0.04],
            "text": {"before": 0.0, "rise": 0.1, "interval": [0, 0.1]},
        },
        {"items": 9, "drop": 0.0, "interval": [-0.04, 0.04], "text": {}},
    ],
)
def test_ability_that_was_not_measured_does_not_pass(facts: dict[str, Any] | None) -> None:
    assert not general_ability(spec(), None if facts is None else Ability.model_validate(facts)).passed


def test_a_spec_that_asks_nothing_is_taken_at_its_word() -> None:
    silent = spec().model_copy(update={"ability": spec().ability.model_copy(update={"suite": False})})
    assert general_ability(silent, Ability(items=0)).passed
    assert not general_ability(silent, None).passed


def people(n: int, share: float, low: float, high: float) -> People:
    return People.model_validate({"random": {"n": n, "candidate": {"share": share, "interval": [low, high]}}})


def test_too_few_ratings_and_too_few_accepted_answers_are_stopped() -> None:
    wanted = spec(min_rated=30, min_accepted=0.7)
    assert human_review(wanted, people(30, 0.9, 0.74, 0.97)).passed
    assert human_review(wanted, people(30, 0.86, 0.7, 0.95)).passed  # at the limit
    few = human_review(wanted, people(29, 1.0, 0.88, 1.0))
    assert not few.passed
    assert "29 of 30" in few.message
    refused = human_review(wanted, people(30, 0.8, 0.63, 0.9))
    assert not refused.passed
    assert refused.measured == 0.63


JUDGED: dict[str, Any] = {
    "name": "m at h",
    "believed": True,
    "verdict": {"wins": 60, "losses": 20, "share": 0.75, "interval": [0.645, 0.832]},
}


def asked(least: float = 0.5, **change: Any) -> GateResult:
    return judge(spec(min_preferred=least), JudgeFindings.model_validate({**JUDGED, **change}))


def test_a_believed_judge_counts_by_its_lower_bound() -> None:
    gate = asked()
    assert gate.passed and (gate.measured, gate.threshold, gate.what_to_do) == (0.645, 0.5, "")
    assert "75.0% of 80 decided pairs" in gate.message
    assert asked(0.645).passed  # at the limit
    lost = asked(0.7)
    assert not lost.passed and "finetune review TASK" in lost.what_to_do


def test_a_judge_that_is_not_believed_does_not_count_however_good_its_figures() -> None:
    gate = asked(believed=False, refused=["it prefers whatever stands first"])
    assert not gate.passed and gate.measured is None
    assert gate.message == "There is no judge to be believed: it prefers whatever stands first."
    assert not asked(believed="yes").passed
    assert judge(spec(min_preferred=0.5), None).message == "There is no judge to be believed: none was asked."


def test_people_are_asked_for_only_where_the_spec_says_so() -> None:
    assert human_review(spec(), None).passed
    answer = human_review(spec(min_rated=30), None)
    assert not answer.passed
    assert "0 of 30 answers" in answer.message


def test_text_at_the_limit_is_not_below_it_and_any_positive_cost_is_one() -> None:
    at = ability(0.0, -0.04, 0.04, text=text(1.0, 0.3, 0.5))
    assert not general_ability(spec(max_text_loss=0.5), at).passed
    assert general_ability(spec(), ability(0.0, -0.04, 0.04, text=text(0.9, 0.1, 0.2))).passed


def test_a_judge_decides_nothing_unless_the_spec_says_so() -> None:
    gate = judge(spec(), None)
    assert gate.status == "not_asked" and gate.measured is None and gate.message == "The spec lets no judge decide."
