"""Gates: each with a plant that must be refused and a clean case that must pass; nothing unmeasured passes."""

from __future__ import annotations

import math

import pytest

from finetune_pipeline.evaluation.gates import GateResult, decide, verdict
from finetune_pipeline.evaluation.statistics.multiple_testing import level_left
from finetune_pipeline.evaluation.statistics.proportions import tango_interval, wilson_interval
from finetune_pipeline.evaluation.wording import percent
from finetune_pipeline_tests.unit.evaluation.fake_run import (
    OPENINGS,
    PARITY,
    VERSIONS,
    arguments,
    champion_rows,
    changed,
    evaluation,
    text_evaluation,
)
from finetune_pipeline_tests.unit.evaluation.rows import paired, rows, spec, text_spec

NAMES = [
    "beats_baseline",
    "beats_baseline_on_parts",
    "beats_commonest",
    "beats_simple",
    "beats_champion",
    "few_regressions",
    "never_break",
    "format_compliance",
    "merge_parity",
    "no_failed_generation",
    "sealed_test_openings",
    "judge",
    "general_ability",
    "human_review",
    "robust",
    "recent_production",
]


@pytest.fixture(scope="module")
def good():
    return evaluation()


def _gate(name, result, of=None):
    return {g.name: g for g in decide(of or spec(), result)}[name]


def test_a_good_candidate_passes_every_gate(good):
    gates = decide(spec(), good)
    assert [(g.name, g.passed) for g in gates] == [(name, True) for name in NAMES]
    assert verdict(gates) == "promote"
    assert all(g.what_to_do == "" for g in gates)
    not_asked = {g.name for g in gates if g.status == "not_asked"}
    assert not_asked == {
        *("beats_champion", "few_regressions", "never_break", "judge", "human_review", "recent_production"),
        "beats_baseline_on_parts",
    }
    refused = decide(spec(), changed(good, {"parity": {}}))
    assert verdict(refused) == verdict([]) == "refuse"


def test_a_tie_does_not_beat_the_baseline():
    base, candidate = paired(80, 10, 10, 20)
    gate = _gate("beats_baseline", evaluation(predictions=[*base, *candidate]))
    assert gate.passed is False and gate.measured < 0
    assert "this test set shows gains of" in gate.message and gate.what_to_do
    base, candidate = paired(80, 8, 14, 20)
    ahead = evaluation(predictions=[*base, *candidate])
    assert ahead.comparison.gain > 0 and not _gate("beats_baseline", ahead).passed, "ahead, but not surely"


def test_the_gain_must_exceed_min_gain(good):
    low = good.decisions.baseline.gains[0].interval[0]
    for min_gain, passes in ((low - 0.001, True), (low, False), (low + 0.001, False)):
        of = spec(gates={"min_gain": min_gain, "wanted_gain": 0.5})
        gate = _gate("beats_baseline", evaluation(spec=of), of)
        assert (gate.passed, gate.measured, gate.threshold) == (passes, low, min_gain)
    assert f"above {100 * min_gain:.1f}." in gate.message
    assert "points of ROUGE-L" in _gate("beats_baseline", text_evaluation(), text_spec()).message


def _beside_the_champion(lost, won, both):
    """The champion has `both` and `lost` right, the candidate `both` and `won`; the base model half as many."""
    before, after = paired(both, lost, won, 200 - both - lost - won)
    base, _ = paired(both // 2, 0, 0, 200 - both // 2)
    return {
        "predictions": [*base, *after, *[r | {"model": "champion"} for r in before]],
        "versions": VERSIONS | {"champion": "3"},
    }


@pytest.mark.parametrize(
    ("lost", "won", "better", "not_worse"),
    [
        (0, 0, False, False),  # the same answers: a tie promotes nobody
        (3, 3, False, False),
        (1, 3, False, True),  # ahead, and a loss of more than the margin is ruled out
        (0, 5, True, True),
        (3, 1, False, False),  # behind
        (20, 24, False, False),  # ahead, but much may have been lost
    ],
)
def test_better_or_not_worse_than_the_champion(lost, won, better, not_worse):
    for mode, passes in (("better", better), ("not_worse", not_worse)):
        of = spec(gates={"champion": mode, "champion_margin": 0.03})
        result = evaluation(spec=of, **_beside_the_champion(lost, won, 150))
        gate = _gate("beats_champion", result, of)
        assert gate.passed is passes, (mode, gate.message)
        assert gate.threshold == (-0.03 if mode == "not_worse" else 0.0)
        assert ("a tie is no reason" in gate.message) is (mode == "not_worse" and lost == won == 0)


@pytest.mark.parametrize(("lost", "passes"), [(0, True), (12, True), (30, False), (60, False)])
def test_rows_the_champion_has_right_must_not_be_lost(lost, passes):
    gate = _gate("few_regressions", evaluation(**_beside_the_champion(lost, 40, 150 - lost)))
    assert gate.passed is passes
    low, high = wilson_interval(lost, 150)
    assert (gate.measured, gate.threshold) == (pytest.approx(high), 0.2)
    assert f"150 rows the champion has right the candidate gets {lost} wrong, {percent(lost / 150)} (" in gate.message


def test_a_champion_without_a_right_row_has_nothing_to_lose(good):
    gate = _gate("few_regressions", evaluation(**_beside_the_champion(0, 100, 0)))
    assert gate.passed is True and gate.measured == 0.0 and "no test row right" in gate.message
    assert "nothing to lose" in _gate("few_regressions", good).message


@pytest.mark.parametrize(
    ("listed", "measured", "says"),
    [
        (["e0000"], 0, "1 listed example is right"),
        (["e0000", "e0099"], 0, "2 listed examples are all right"),
        (
            ["e0000", "e0100", "e0180"],
            2,
            "Of 3 listed examples 2 wrong: e0100, e0180.",
        ),  # lost to the base; never right
        (["e0000", "nowhere"], 1, "0 wrong; 1 not in the sealed test, so nobody knows: nowhere"),
        ([f"x{i}" for i in range(7)], 7, "x0, x1, x2, x3, x4 and 2 more ("),
        ([f"x{i}" for i in range(6)], 6, "x4 and 1 more ("),
        ([f"x{i}" for i in range(5)], 5, "x4 ("),
    ],
)
def test_a_listed_example_must_be_in_the_test_and_right(listed, measured, says):
    gate = _gate("never_break", evaluation(never_break=listed))
    assert (gate.passed, gate.measured, gate.threshold) == (measured == 0, measured, 0.0)
    assert says in gate.message and bool(gate.what_to_do) is not gate.passed


def _looks(n):
    """A ledger in which the candidate is the n-th of n."""
    return [OPENINGS[0] | {"candidate": f"c{n - i}"} for i in range(n)]


def test_every_further_candidate_meets_a_stricter_level():
    base, candidate = paired(100, 6, 20, 74)  # p is 0.006: enough for three looks
    base = [r | {"label_scores": []} for r in base]  # no restricted answers to beat beside them
    shown = []
    for looks in (1, 2, 3, 4):
        result = evaluation(predictions=[*base, *candidate], openings=_looks(looks))
        gate = _gate("beats_baseline", result)
        assert gate.measured == pytest.approx(tango_interval(6, 20, 200, 1 - level_left(looks))[0])
        assert ("stricter" in gate.message) is (looks > 1)
        shown.append(gate.passed)
    assert shown == [True, True, True, False]
    assert "This is candidate 4 that this test judges" in gate.message


def test_all_named_metrics_must_gain_by_holms_levels():
    of = spec(gates={"more_metrics": ["macro_f1"]})
    result = evaluation(spec=of)
    gate = _gate("beats_baseline", result, of)
    assert gate.passed is True
    for interval in ("points of accuracy (98.75% interval", "points of macro-F1 (98.75% interval"):
        assert gate.message.count(interval) == 2, "freely written and restricted answers, two metrics each"
    assert "All 4 must be shown" in gate.message
    lost = {"gains.1.interval": [-0.01, 0.2], "gains.1.shown": False, "shown": False}
    result = changed(result, {f"decisions.baseline.{place}": value for place, value in lost.items()})
    refused = _gate("beats_baseline", result, of)
    assert (refused.passed, refused.measured) == (False, -0.01)


def test_agreement_on_the_threshold_passes(good):
    exact = PARITY | {"same_greedy_share": 0.9, "mean_kl": 1e-3, "mean_kl_limit": 1e-3}
    gate = _gate("merge_parity", changed(good, {"parity": exact}), spec(gates={"parity_min_agreement": 0.9}))
    assert (gate.passed, gate.measured, gate.threshold) == (True, 0.9, 0.9)


def test_what_the_test_could_show_is_told_where_it_may_explain_a_no(good):
    def message(**metric):
        first = good.to_json()["decisions"]["baseline"]["gains"][0]
        return _gate("beats_baseline", changed(good, {"decisions.baseline.gains": [first | metric]})).message

    assert "this test set shows gains" not in message()  # passed: nothing to explain
    assert "this test set shows gains" in message(interval=[-0.1, 0.2])
    assert "this test set shows gains" in message(interval=[-0.1, 0.0])
    assert "this test set shows gains" not in message(interval=[-0.2, -0.1])  # surely worse, whatever its size
    assert "this test set shows gains" not in message(interval=[-0.1, 0.2], metric="macro_f1")


def test_invalid_answers_are_refused():
    pairs = [("bug", "bug")] * 190 + [("bug", "It is a bug")] * 10
    result = evaluation(predictions=[*rows(pairs, "base"), *rows(pairs, "candidate")])
    gate = _gate("format_compliance", result)
    assert gate.passed is False
    assert gate.measured == pytest.approx(0.910, abs=2e-3)
    assert "190 of 200 answers" in gate.message and "Even without" not in gate.message
    low = result.scores["candidate"].valid.interval[0]
    assert _gate("format_compliance", result, spec(gates={"min_valid_share": low})).passed is True


def test_a_test_set_too_small_to_show_it_is_told_the_number_of_rows(good):
    def gate(n):
        places = {"scores.candidate.valid.interval": [0.9, 1.0], "scores.candidate.valid.n": n}
        return _gate("format_compliance", changed(good, places), spec(gates={"min_valid_share": 0.97}))

    assert not gate(124).passed and "125 rows" in gate(124).message and "125 rows" in gate(124).what_to_do
    assert not gate(125).passed and "Even without" not in gate(125).message
    assert "below 1" in _gate("format_compliance", good, spec(gates={"min_valid_share": 1.0})).what_to_do


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
    assert _gate("merge_parity", changed(good, {"parity": PARITY | change})).passed is False


@pytest.mark.parametrize("model", ["base", "candidate", "champion"])
def test_a_failed_generation_of_any_model_is_refused(model):
    predictions = [*arguments()["predictions"], *champion_rows(100)]
    next(r for r in predictions if r["model"] == model).update(status="error", error="out of memory", text="")
    gate = _gate("no_failed_generation", evaluation(predictions=predictions, versions=VERSIONS | {"champion": "3"}))
    assert gate.passed is False
    assert f"{model} 1" in gate.message


def test_the_opening_must_be_on_record():
    assert _gate("sealed_test_openings", evaluation(openings=[])).passed is False
    assert _gate("sealed_test_openings", evaluation(openings=[OPENINGS[0] | {"candidate": "c2"}])).passed is False
    once = _gate("sealed_test_openings", evaluation())
    assert (
        once.passed is True
        and "opened once, for 1 candidate; this is number 1, judged by 95% intervals." in once.message
    )
    assert "flatters" not in once.message and "without being better" not in once.message
    gate = _gate("sealed_test_openings", evaluation(openings=_looks(2)))
    assert gate.passed is True and gate.measured == 2
    assert "opened 2 times, for 2 candidates; this is number 2, judged by 98.33% intervals." in gate.message
    assert "without being better is at most 3.3%. Choosing the best of them flatters" in gate.message


_PLACES = {
    "beats_baseline": ["decisions.baseline." + k for k in ("gains.0.gain", "gains.0.interval.0", "margin")],
    "beats_commonest": ["decisions.simple.gains.0." + k for k in ("gain", "interval.0")],
    "beats_simple": ["decisions.simple." + k for k in ("gains.2.gain", "gains.0.interval.0", "margin")],
    "beats_champion": ["decisions.champion.gains.0.gain", "decisions.champion.gains.0.interval.1"],
    "few_regressions": ["comparisons.champion." + k for k in ("b", "right_before", "design_effect")],
    "never_break": ["never_break.listed"],
    "format_compliance": ["scores.candidate.valid." + k for k in ("n", "valid", "interval.0")],
    "merge_parity": ["parity." + k for k in ("rows", "same_greedy_share", "mean_kl", "mean_kl_limit")],
    "no_failed_generation": [f"scores.{model}.statuses.error" for model in ("base", "candidate", "champion")],
    "sealed_test_openings": ["seal." + k for k in ("count", "candidates", "recorded", "level.look", "level.level")],
    "general_ability": ["ability." + k for k in ("drop", "interval.1", "text.before", "text.rise", "text.interval.0")],
    "robust": ["robustness.kinds.typos." + k for k in ("n", "drop")],
}


@pytest.fixture(scope="module")
def championed():
    predictions = [*arguments()["predictions"], *champion_rows(90)]
    return evaluation(predictions=predictions, versions=VERSIONS | {"champion": "3"})


@pytest.mark.parametrize("value", [math.nan, None, True])
def test_nothing_measured_nothing_passed(championed, value):
    """A value that is missing or not a finite number fails its gate, wherever the gate reads one."""
    assert all(gate.passed for gate in decide(spec(), championed))
    for name, places in _PLACES.items():
        for place in places:
            if (place, value) == ("seal.recorded", True):
                continue
            gate = _gate(name, changed(championed, {place: value}))
            assert gate.passed is False and gate.what_to_do, (name, place)


def test_parts_that_are_missing_do_not_pass(championed):
    empty = {"decisions.baseline.gains": [], "decisions.simple.gains": [], "decisions.champion": None, "parity": {}}
    empty |= {"comparisons.champion": None, "scores.candidate.valid": {}, "scores.base.statuses": {}, "seal.level": {}}
    empty |= {"never_break": {}, "ability": None, "people": None, "judge": None, "robustness": None}
    gates = decide(
        spec(gates={"min_rated": 1, "parts": ["raw/a.jsonl"], "min_preferred": 0.5}), changed(championed, empty)
    )
    assert [g.name for g in gates if g.passed] == ["recent_production"]
    assert all(g.measured is None for g in gates if g.name != "sealed_test_openings")


def test_gate_results_are_plain_json(good):
    gate = decide(spec(), good)[0].to_dict()
    assert set(gate) == {"name", "passed", "measured", "threshold", "message", "what_to_do", "status"}
    assert gate["passed"] is (gate["status"] != "failed")
    assert [GateResult.from_dict(g.to_dict()) for g in decide(spec(), good)] == decide(spec(), good)


def _answers(base, right):
    """A simple model's answers that are right on the first rows."""
    return {r["example_id"]: r["gold"] if i < right else "no label" for i, r in enumerate(base)}


@pytest.mark.parametrize(
    ("right", "decision", "measured_above"),
    [
        (100, "promote", 0.0),
        (160, "use_simple", -0.1),  # as good as the candidate: a tie
        (157, "use_simple", -0.1),  # a little worse, but not surely
        (190, "use_simple", -0.3),  # better
    ],
)
@pytest.mark.parametrize("name", ["commonest", "nearest", "linear"])
def test_every_simple_model_must_surely_be_beaten(name, right, decision, measured_above):
    base, _ = paired(100, 5, 60, 35)
    simple = {other: _answers(base, 40) for other in ("commonest", "nearest", "linear")} | {name: _answers(base, right)}
    result = evaluation(simple=simple)
    gates = decide(spec(), result)
    gate = {g.name: g for g in gates}["beats_simple"]
    blind = name == "commonest"  # nothing is learned where this one is not beaten: that is no reason to use it
    assert verdict(gates) == ("refuse" if blind and decision == "use_simple" else decision)
    assert gate.passed is (decision == "promote") and gate.measured > measured_above
    assert (gate.what_to_do == "") is gate.passed and ("export" in gate.what_to_do) is not gate.passed
    failed = ["beats_commonest", "beats_simple"] if blind else ["beats_simple"]
    assert [g.name for g in gates if not g.passed] == ([] if gate.passed else failed)


def test_a_tie_with_a_simple_model_passes_only_where_the_spec_takes_it():
    base, _ = paired(100, 5, 60, 35)
    simple = {"linear": _answers(base, 160)}
    wide = spec(gates={"simple": "not_worse", "simple_margin": 0.2})
    gate = _gate("beats_simple", evaluation(spec=wide, simple=simple), wide)
    assert gate.passed and gate.threshold == -0.2 and "tie with TF-IDF and logistic regression" in gate.message
    assert "must lie above -20.0." in gate.message
    narrow = spec(gates={"simple": "not_worse", "simple_margin": 0.01})
    assert not _gate("beats_simple", evaluation(spec=narrow, simple=simple), narrow).passed
    won = _gate("beats_simple", evaluation(spec=wide, simple={"linear": _answers(base, 40)}), wide)
    assert won.passed and "tie" not in won.message


def test_a_base_out_of_form_is_compared_by_its_restricted_answers():
    base, candidate = paired(100, 5, 60, 35)
    spoken = [r | {"text": f"I would say {r['text']}"} for r in base]
    result = evaluation(predictions=[*spoken, *candidate])
    gate = _gate("beats_baseline", result)
    assert gate.passed and "Only 0.0% of the base model's answers are in form" in gate.message
    assert "+27.5 points" in gate.message, "the gain over the restricted answers, not over answers without form"
    as_good = [
        r | {"label_scores": [-0.1 if x == r["gold"] else -3.0 for x in ("bug", "billing", "other")]} for r in spoken
    ]
    assert not _gate("beats_baseline", evaluation(predictions=[*as_good, *candidate])).passed
    for mode, says in (("restricted", "is its restricted answers"), ("lenient", "its answers, read leniently")):
        message = _gate("beats_baseline", changed(result, {"base_at_its_best.mode": mode})).message
        assert says in message
    assert "in form" not in _gate("beats_baseline", changed(result, {"base_at_its_best.mode": "free"})).message


def test_restricted_answers_must_be_beaten_beside_free_ones():
    base, candidate = paired(100, 5, 60, 35)
    better = [
        r | {"label_scores": [-0.1 if x == r["gold"] else -3.0 for x in ("bug", "billing", "other")]} for r in base
    ]
    gate = _gate("beats_baseline", evaluation(predictions=[*better, *candidate]))
    assert not gate.passed and "its answers restricted to the allowed forms: -20.0 points" in gate.message


def test_of_many_rivals_the_closest_is_told_in_full_and_the_others_in_short(good):
    assert _gate("beats_simple", good).message == (
        "Against TF-IDF and logistic regression: +13.5 points of accuracy (98.33% interval +2.9 to +23.9), the closest of 3; "
        "always the commonest answer +46.5, the nearest training row's answer +46.5 (200 rows). The lower bounds must lie "
        "above zero. All 3 must be shown, each at its share of the level (Holm)."
    )
    both = _gate("beats_baseline", good).message
    assert both.count("97.5% interval") == 2 and "the closest of" not in both
    first = good.decisions.simple.gains[0].model_dump(mode="json")
    alone = _gate("beats_simple", changed(good, {"decisions.simple.gains": [first]})).message
    assert "The lower bound must lie above zero." in alone and "Holm" not in alone


def test_what_is_no_better_than_the_commonest_answer_is_refused_also_where_a_tie_would_do():
    base, _ = paired(100, 5, 60, 35)
    wide = spec(gates={"simple": "not_worse", "simple_margin": 0.2})
    result = evaluation(spec=wide, simple={"commonest": _answers(base, 160), "linear": _answers(base, 40)})
    gate = _gate("beats_commonest", result, wide)
    assert _gate("beats_simple", result, wide).passed and not gate.passed
    assert gate.threshold == 0.0 and gate.measured <= 0 and "labels that do not belong" in gate.what_to_do
    fields = evaluation(simple={"commonest": _answers(base, 40), "commonest_fields": _answers(base, 158)})
    gate = _gate("beats_commonest", fields)
    assert not gate.passed and "each field's commonest value" in gate.message
    assert verdict(decide(spec(), fields)) == "refuse"


def test_few_rows_cannot_show_few_regressions_and_it_is_said():
    result = evaluation(**_beside_the_champion(0, 40, 10))
    gate = _gate("few_regressions", result)
    assert gate.passed is False
    assert "even a candidate that loses none could not show less than 27.8%" in gate.message
    just = spec(gates={"max_regression": wilson_interval(0, 10)[1]})
    assert "even a candidate" not in _gate("few_regressions", result, just).message
    result = changed(result, {"comparisons.champion.design_effect": 2.0})
    assert f"less than {percent(wilson_interval(0, 5)[1])}." in _gate("few_regressions", result).message
    assert "even a candidate" not in _gate("few_regressions", evaluation(**_beside_the_champion(30, 40, 100))).message


def test_rows_that_share_sources_count_for_fewer_lost_rows(championed):
    counts = {"b": 10, "right_before": 150, "design_effect": 2.0}
    result = changed(championed, {f"comparisons.champion.{name}": value for name, value in counts.items()})
    high = wilson_interval(5, 75)[1]
    assert _gate("few_regressions", result).measured == pytest.approx(high)
    at_the_limit, below = (spec(gates={"max_regression": limit}) for limit in (high, high - 1e-9))
    assert _gate("few_regressions", result, at_the_limit).passed and not _gate("few_regressions", result, below).passed


def test_a_lower_bound_of_zero_is_a_tie(good):
    first = {"decisions.simple.gains.0.interval": [0.0, 0.4]}
    assert not _gate("beats_commonest", changed(good, first)).passed
    assert not _gate("beats_baseline", changed(good, {"decisions.baseline.gains.0.interval": [0.0, 0.3]})).passed
    assert not _gate("beats_baseline", changed(good, {"decisions.baseline.shown": False})).passed
    base, _ = paired(100, 5, 60, 35)
    wide = spec(gates={"simple": "not_worse", "simple_margin": 0.2})
    result = evaluation(spec=wide, simple={"linear": _answers(base, 40)})
    assert "tie" not in _gate("beats_simple", result, wide).message
    assert "tie with TF-IDF" in _gate("beats_simple", changed(result, first), wide).message
