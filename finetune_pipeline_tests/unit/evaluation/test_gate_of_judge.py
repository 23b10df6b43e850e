"""The gate of a judge: a believed one that prefers the candidate passes; what is not believed or not there does not."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_pipeline.evaluation.gate_of_judge import judge
from finetune_pipeline_tests.unit.evaluation.rows import spec

JUDGED: dict[str, Any] = {
    "name": "m at h",
    "believed": True,
    "refused": [],
    "verdict": {"wins": 60, "losses": 20, "share": 0.75, "interval": [0.645, 0.832]},
}


def asked(least: float = 0.5, **change: Any) -> Any:
    return judge(spec(gates={"min_preferred": least}), {"judge": {**JUDGED, **change}})


def test_it_decides_nothing_unless_the_spec_says_so() -> None:
    told = judge(spec(), {})
    assert told.passed and told.measured is None and told.what_to_do == ""
    assert told.message == "The spec lets no judge decide."


def test_a_believed_judge_counts_by_its_lower_bound() -> None:
    told = asked()
    assert told.passed and (told.measured, told.threshold, told.what_to_do) == (0.645, 0.5, "")
    assert "75.0% of 80 decided pairs" in told.message
    assert asked(0.645).passed  # at the limit
    lost = asked(0.7)
    assert not lost.passed and "finetune review TASK" in lost.what_to_do


def test_a_judge_that_is_not_believed_does_not_count_however_good_its_figures() -> None:
    told = asked(believed=False, refused=["it prefers whatever stands first"])
    assert not told.passed and told.measured is None
    assert told.message == "There is no judge to be believed: it prefers whatever stands first."
    assert not asked(believed="yes").passed


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"judge": None},
        {"judge": {**JUDGED, "verdict": None}},
        {"judge": {**JUDGED, "verdict": {**JUDGED["verdict"], "share": None}}},
        {"judge": {**JUDGED, "verdict": {**JUDGED["verdict"], "interval": [float("nan"), 1.0]}}},
        {"judge": {**JUDGED, "verdict": {"wins": 60, "losses": 20, "interval": [0.6, 0.8]}}},
    ],
)
def test_what_was_not_judged_does_not_pass(told: dict[str, Any]) -> None:
    found = judge(spec(gates={"min_preferred": 0.5}), told)
    assert not found.passed and found.measured is None
    assert judge(spec(gates={"min_preferred": 0.5}), {}).message == "There is no judge to be believed: none was asked."


def test_counts_that_are_missing_read_as_none() -> None:
    told = asked(verdict={"share": 0.75, "interval": [0.6, 0.8]})
    assert told.passed and "of 0 decided pairs" in told.message
