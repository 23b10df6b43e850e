"""Gates: each with a plant that must be refused and a clean case that must pass; nothing unmeasured passes."""

from __future__ import annotations

import copy
import math

import pytest

from finetune_pipeline.evaluation.gates import decide, table, verdict
from finetune_pipeline_tests.unit.evaluation.fake_run import (
    OPENINGS,
    PARITY,
    arguments,
    champion_rows,
    evaluation,
    text_evaluation,
)
from finetune_pipeline_tests.unit.evaluation.rows import paired, rows, spec, text_spec

NAMES = [
    "beats_baseline",
    "beats_champion",
    "format_compliance",
    "merge_parity",
    "no_failed_generation",
    "sealed_test_openings",
]


@pytest.fixture(scope="module")
def good():
    return evaluation()


def _gate(name, told, of=None):
    return {g.name: g for g in decide(of or spec(), told)}[name]


def test_a_good_candidate_passes_every_gate(good):
    gates = decide(spec(), good)
    assert [(g.name, g.passed) for g in gates] == [(name, True) for name in NAMES]
    assert verdict(gates) == "passed"
    assert all(g.what_to_do == "" for g in gates)


def test_one_refusal_refuses(good):
    gates = decide(spec(), good | {"parity": {}})
    assert verdict(gates) == "failed"
    assert verdict([]) == "failed"


def test_the_documented_gates_are_the_ones_that_decide(good):
    assert [g["name"] for g in table()] == [g.name for g in decide(spec(), good)]
    assert all(g[key] for g in table() for key in ("needs", "default", "blocking", "what_to_do"))


def test_a_tie_does_not_beat_the_baseline():
    base, candidate = paired(80, 10, 10, 20)
    gate = _gate("beats_baseline", evaluation(predictions=[*base, *candidate], linear=None))
    assert gate.passed is False and gate.measured < 0
    assert "this test set shows gains of" in gate.message and gate.what_to_do


def test_identical_answers_do_not_beat_the_baseline():
    base, candidate = paired(100, 0, 0, 0)
    gate = _gate("beats_baseline", evaluation(predictions=[*base, *candidate], linear=None))
    assert gate.passed is False
    assert "no gain at all would be visible" in gate.message


def test_a_better_point_estimate_is_not_enough():
    base, candidate = paired(80, 8, 14, 20)
    told = evaluation(predictions=[*base, *candidate], linear=None)
    assert told["comparison"]["gain"] > 0
    assert _gate("beats_baseline", told).passed is False


def test_the_gain_must_exceed_min_gain(good):
    low = good["comparison"]["interval"][0]
    for min_gain, passes in ((low - 0.001, True), (low, False), (low + 0.001, False)):
        assert _gate("beats_baseline", good, spec(gates={"min_gain": min_gain})).passed is passes


def test_text_tasks_are_judged_by_rouge():
    told = text_evaluation()
    gate = _gate("beats_baseline", told, text_spec())
    assert gate.passed is True
    assert "points of ROUGE-L" in gate.message


def test_no_champion_passes_and_says_so(good):
    gate = _gate("beats_champion", good)
    assert gate.passed is True
    assert "nothing to beat" in gate.message


@pytest.mark.parametrize(("right", "passes"), [(100, True), (160, False), (190, False)])
def test_the_champion_must_be_beaten(right, passes):
    predictions = [*arguments()["predictions"], *champion_rows(right)]
    assert _gate("beats_champion", evaluation(predictions=predictions, versions={"champion": "3"})).passed is passes


def test_a_champion_that_was_not_compared_does_not_pass(good):
    assert _gate("beats_champion", good | {"versions": {"champion": "3"}}).passed is False


def test_invalid_answers_are_refused():
    pairs = [("bug", "bug")] * 190 + [("bug", "It is a bug")] * 10
    told = evaluation(predictions=[*rows(pairs, "base"), *rows(pairs, "candidate")], linear=None)
    gate = _gate("format_compliance", told)
    assert gate.passed is False
    assert gate.measured == pytest.approx(0.910, abs=2e-3)
    assert "190 of 200 answers" in gate.message and "Even without" not in gate.message


def test_a_test_set_too_small_to_show_it_is_told_the_number_of_rows():
    pairs = [("bug", "bug")] * 100
    told = evaluation(predictions=[*rows(pairs, "base"), *rows(pairs, "candidate")], linear=None)
    gate = _gate("format_compliance", told, spec(gates={"min_valid_share": 0.97}))
    assert gate.passed is False
    assert "125 rows" in gate.message and "125 rows" in gate.what_to_do
    assert _gate("format_compliance", told).passed is True
    assert "below 1" in _gate("format_compliance", told, spec(gates={"min_valid_share": 1.0})).what_to_do


@pytest.mark.parametrize(
    "change",
    [
        {"same_greedy_share": 0.86},
        {"mean_kl": 0.01},
        {"mean_kl": None},
        {"passed": False},
        {"rows": 0},
        {"same_greedy_share": None},
    ],
)
def test_a_merge_that_differs_is_refused(good, change):
    assert _gate("merge_parity", good | {"parity": PARITY | change}).passed is False


def test_parity_without_divergence_is_judged_by_answers(good):
    assert _gate("merge_parity", good | {"parity": {"rows": 32, "same_greedy_share": 0.99}}).passed is True


@pytest.mark.parametrize("model", ["base", "candidate", "champion"])
def test_a_failed_generation_of_any_model_is_refused(model):
    predictions = [*arguments()["predictions"], *champion_rows(100)]
    next(r for r in predictions if r["model"] == model).update(status="error", error="out of memory", text="")
    gate = _gate("no_failed_generation", evaluation(predictions=predictions, versions={"champion": "3"}))
    assert gate.passed is False
    assert f"{model} 1" in gate.message


def test_the_opening_must_be_on_record():
    assert _gate("sealed_test_openings", evaluation(openings=[])).passed is False
    gate = _gate("sealed_test_openings", evaluation(openings=[*OPENINGS, OPENINGS[0] | {"candidate": "c2"}]))
    assert gate.passed is True
    assert "opened 2 times, for 2 candidates. Choosing the best of them flatters" in gate.message


def test_nothing_measured_nothing_passed():
    for empty in ({}, {"comparisons": None, "scores": [], "parity": "x", "seal": 3}):
        gates = decide(spec(), empty)
        assert [g.passed for g in gates] == [False] * len(NAMES)
        assert all(g.what_to_do for g in gates)


_PATHS = {
    "beats_baseline": [("comparisons", "baseline", "gain"), ("comparisons", "baseline", "interval", 0)],
    "beats_champion": [("comparisons", "champion", "gain"), ("comparisons", "champion", "interval", 1)],
    "format_compliance": [("scores", "candidate", "valid", k) for k in ("n", "valid")]
    + [("scores", "candidate", "valid", "interval", 0)],
    "merge_parity": [("parity", k) for k in ("rows", "same_greedy_share", "mean_kl", "mean_kl_limit")],
    "no_failed_generation": [("scores", m, "statuses", "error") for m in ("base", "candidate", "champion")],
    "sealed_test_openings": [("seal", "count"), ("seal", "candidates")],
}


@pytest.mark.parametrize(("name", "path"), [(name, path) for name, paths in _PATHS.items() for path in paths])
@pytest.mark.parametrize("value", [math.nan, None, math.inf, "0.9", True])
def test_a_number_that_is_none_fails_its_gate(name, path, value):
    predictions = [*arguments()["predictions"], *champion_rows(90)]
    told = copy.deepcopy(evaluation(predictions=predictions, versions={"champion": "3"}))
    assert _gate(name, told).passed is True
    place = told
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert _gate(name, told).passed is False


def test_gate_results_are_plain_json(good):
    gate = decide(spec(), good)[0].to_dict()
    assert set(gate) == {"name", "passed", "measured", "threshold", "message", "what_to_do"}
