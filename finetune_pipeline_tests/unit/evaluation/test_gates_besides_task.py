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
    return {"text": {"before": before, "after": before + rise, "rise": rise, "interval": [rise - 0.1, high]}}


def arc(*interval: float) -> dict[str, Any]:
    return {"benchmarks": {"arc": {"n": 40, "drop": 0.2, "interval": list(interval) or None}}}


@pytest.mark.parametrize(
    ("loss", "more", "gates", "passed", "says"),
    [
        ((0.02, -0.02, 0.06), {}, {}, True, ""),
        ((0.2, 0.14, 0.26), {}, {}, False, "-20.0 points on 234 questions"),
        ((0.2, 0.14, 0.26), {}, {}, False, "a loss of 10.0 points must be ruled out"),
        ((0.05, -0.01, 0.11), {}, {}, False, "not shown either"),
        ((0.05, -0.01, 0.11), {}, {"max_ability_loss": 0.12}, True, ""),
        ((0.05, -0.01, 0.11), {}, {"max_ability_loss": 0.11}, False, ""),  # at the limit is not below
        ((0.02, -0.02, 0.06), arc(0.09, 0.4), {}, True, ""),
        ((0.02, -0.02, 0.06), arc(0.1, 0.4), {}, False, "arc surely loses 10.0 points"),
        ((0.02, -0.02, 0.06), arc(), {}, False, ""),  # what was not measured does not pass
        ((0.0, -0.04, 0.04), text(1.2, 0.1, 0.2), {}, True, ""),
        ((0.0, -0.04, 0.04), text(0.9, 0.1, 0.2), {}, True, ""),
        ((0.0, -0.04, 0.04), text(1.2, 0.5, 0.7), {}, False, "+41.7% bits (surely at most +58.3%; allowed +50%)"),
        ((0.0, -0.04, 0.04), text(1.2, 0.5, 0.7), {"max_text_loss": 0.6}, True, ""),
        ((0.0, -0.04, 0.04), text(1.0, 0.3, 0.5), {"max_text_loss": 0.5}, False, ""),  # at the limit
        ((0.0, -0.04, 0.04), {"text": {}}, {}, False, "What plain text costs was not measured."),
        ((0.0, -0.04, 0.04), text(0.0, 0.1, 0.1), {}, False, "What plain text costs was not measured."),
    ],
)
def test_a_loss_of_ability_must_be_ruled_out(loss: Any, more: Any, gates: Any, passed: bool, says: str) -> None:
    gate = general_ability(spec(**gates), ability(*loss, **more))
    assert gate.passed is passed and says in gate.message
    assert ("Train more gently" in gate.what_to_do) is not passed
    assert gate.measured in (loss[2], None)


def test_a_loss_that_is_sure_is_not_called_open() -> None:
    for low in (0.1, 0.14):
        assert "not shown either" not in general_ability(spec(), ability(0.2, low, 0.26)).message


@pytest.mark.parametrize(
    "facts",
    [
        None,
        {},
        {"items": 0},
        {"items": 9, "drop": float("nan"), "interval": [0.0, 0.1]},
        {"items": 9, "drop": 0.0, "interval": None},
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
    assert human_review(spec(), None).status == "not_asked"
    assert "0 of 30 answers" in human_review(wanted, None).message


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


def test_a_judge_decides_nothing_unless_the_spec_says_so() -> None:
    gate = judge(spec(), None)
    assert gate.status == "not_asked" and gate.measured is None and gate.message == "The spec lets no judge decide."
