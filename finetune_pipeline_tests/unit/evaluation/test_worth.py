"""Whether training is worth it, from the prompted baseline alone."""

from __future__ import annotations

import math

import pytest

from finetune_pipeline.evaluation.statistics import wilson_interval
from finetune_pipeline.evaluation.worth import worth_training
from finetune_pipeline_tests.unit.evaluation.rows import spec


def _facts(correct: int, n: int = 200, likelihood: float | None = None) -> dict:
    low, high = wilson_interval(correct, n)
    scores = {"accuracy": correct / n, "interval": [low, high], "likelihood_accuracy": likelihood}
    return {"best": "8_shot", "prompts": {"zero_shot": {"accuracy": 0.1, "interval": [0.05, 0.2]}, "8_shot": scores}}


def test_weak_prompting_is_worth_training():
    told = worth_training(spec(), _facts(80))
    assert told["passed"] is True
    assert "8-shot, is 40.0% right on validation (interval 33.5% to 46.9%)" in told["reason"]
    assert "constrained decoding" not in told["reason"]


def test_strong_prompting_is_not():
    told = worth_training(spec(), _facts(192))
    assert told["passed"] is False
    assert told["reason"].startswith("Prompting is enough: 8-shot is 96.0% right")


def test_above_the_ceiling_by_luck_is_not_surely_above():
    assert worth_training(spec(), _facts(184))["passed"] is True
    assert worth_training(spec(baseline={"ceiling": 0.8}), _facts(184))["passed"] is False


def test_constrained_decoding_that_closes_most_of_the_gap_is_said():
    told = worth_training(spec(), _facts(32, likelihood=0.78))
    assert told["passed"] is True
    assert told["constrained_decoding"]["closes_share"] == pytest.approx(0.62 / 0.74)
    assert "try constrained decoding first" in told["reason"]
    assert "78.0% right" in told["reason"]


def test_constrained_decoding_that_closes_little_is_not_recommended():
    told = worth_training(spec(), _facts(80, likelihood=0.5))
    assert told["constrained_decoding"]["enough_first"] is False
    assert "constrained" not in told["reason"]


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
    told = worth_training(spec(), broken)
    assert told["passed"] is False
    assert "no usable score" in told["reason"]
