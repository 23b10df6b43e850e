"""Whether training is worth it, from the prompted baseline alone."""

from __future__ import annotations

import math

import pytest

from finetune_pipeline.baseline.worth import worth_training
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval
from finetune_pipeline_tests.unit.evaluation.rows import spec


def _scores(share: float, n: int = 200) -> dict:
    return {"n": n, "accuracy": share, "interval": list(wilson_interval(share * n, n))}


def _facts(correct: int, restricted: float | None = None, **simple: float) -> dict:
    """A best prompt that is right on `correct` of 200 rows; shares of restricted answers and of simple models."""
    best = _scores(correct / 200) | {"restricted": None if restricted is None else _scores(restricted)}
    prompts = {"zero_shot": {"accuracy": 0.1, "interval": [0.05, 0.2]}, "8_shot": best}
    return {"best": "8_shot", "prompts": prompts, "simple": {name: _scores(share) for name, share in simple.items()}}


def test_weak_prompting_is_worth_training():
    verdict = worth_training(spec(), _facts(80))
    assert verdict["passed"] is True
    assert "8-shot, is right on 40.0% of 200 validation rows (33.5% to 46.9%)" in verdict["reason"]
    assert "restrict" not in verdict["reason"]


def test_strong_prompting_is_not():
    verdict = worth_training(spec(), _facts(192))
    assert verdict["passed"] is False
    assert verdict["reason"].startswith("Prompting is enough: 8-shot is right on 96.0%")


def test_above_the_ceiling_by_luck_is_not_surely_above():
    assert worth_training(spec(), _facts(184))["passed"] is True
    assert worth_training(spec(baseline={"ceiling": 0.8}), _facts(184))["passed"] is False
    low = _facts(184)["prompts"]["8_shot"]["interval"][0]
    assert worth_training(spec(baseline={"ceiling": low}), _facts(184))["passed"] is False, "at the ceiling is enough"


def test_restricted_answers_that_close_most_of_the_gap_are_named():
    verdict = worth_training(spec(), _facts(32, restricted=0.78))
    assert verdict["passed"] is True
    assert verdict["restricted"]["closes_share"] == pytest.approx(0.62 / 0.74)
    assert "try restricting the answers first" in verdict["reason"]
    assert "78.0% right" in verdict["reason"]


def test_the_share_of_the_gap_that_is_closed_has_its_ends() -> None:
    def closed(correct: int, restricted: float, ceiling: float = 0.9) -> tuple[float, bool]:
        of = spec(baseline={"ceiling": ceiling})
        found = worth_training(of, _facts(correct, restricted=restricted))["restricted"]
        return found["closes_share"], found["enough_first"]

    assert closed(100, 0.4) == (0.0, False), "worse when restricted"
    assert closed(100, 0.75, ceiling=1.0) == (0.5, True), "half of the gap is enough"
    assert closed(100, 0.93) == (1.0, True), "more than the gap is all of it"
    assert closed(180, 0.93) == (0.0, False), "at the ceiling there is no gap"


@pytest.mark.parametrize("name", ["commonest", "nearest", "linear"])
def test_a_simple_model_surely_above_the_ceiling_is_enough(name: str):
    verdict = worth_training(spec(), _facts(60, **{name: 0.97}))
    assert verdict["passed"] is False and verdict["enough"] == name
    assert "A language model is not needed" in verdict["reason"] and "right on 97.0%" in verdict["reason"]
    assert worth_training(spec(), _facts(60, **{name: 0.92}))["passed"] is True


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"best": "8_shot", "prompts": {}},
        {"best": None, "prompts": {"8_shot": {"accuracy": 0.4}}},
        {"best": "x", "prompts": {"x": {"accuracy": math.nan, "interval": [0.1, 0.2]}}},
        {"best": "x", "prompts": {"x": {"accuracy": 0.3, "interval": [math.nan, 0.2]}}},
        {"best": "x", "prompts": {"x": {"accuracy": 0.3, "interval": None}}},
    ],
)
def test_without_numbers_nobody_trains(broken):
    verdict = worth_training(spec(), broken)
    assert verdict["passed"] is False
    assert "no usable score" in verdict["reason"]
