"""Gates: each with a plant that must be refused and a clean case that must pass; nothing unmeasured passes."""

import itertools
import math
import re

import pytest
from pydantic import ValidationError

from finetune_pipeline.evaluation.gates import GATES, GateResult, decide
from finetune_pipeline.evaluation.gates.beats_simple import tied_with
from finetune_pipeline.evaluation.rivals import score_baselines
from finetune_pipeline.evaluation.statistics.multiple_testing import level_left
from finetune_pipeline.evaluation.statistics.power import rows_needed_for_gain
from finetune_pipeline.evaluation.statistics.proportions import clustered_share, tango_interval, wilson_interval
from finetune_pipeline.evaluation.teacher_rival import AskedTeacher
from finetune_pipeline.evaluation.wording import percent
from finetune_pipeline.report.comparison import comparisons_table
from finetune_pipeline_tests.trainings import SECOND_STAGE
from finetune_pipeline_tests.unit.evaluation.fake_run import (
    NOT_COMPARED,
    OPENINGS,
    PARITY,
    TRAINING,
    VERSIONS,
    arguments,
    changed,
    evaluation,
    text_evaluation,
    usual,
)
from finetune_pipeline_tests.unit.evaluation.rows import (
    LABELS,
    answers,
    paired,
    register_mirrored,
    rows,
    spec,
    text_spec,
)

ASKED = {
    "beats_baseline", "beats_commonest", "beats_simple", "format_compliance", "merge_parity",
    "sealed_test_openings", "general_ability", "robust",
}  # fmt: skip
"""Gates that a usual evaluation must answer; the others have nothing to judge in it."""
TEACHER = {"endpoint": {"url": "http://127.0.0.1:1/v1", "model": "large"}, "allowed": True, "budget_usd": 5.0}
ASKED_TEACHER = AskedTeacher(
    name="teacher large", asked="a1", dollars_per_1k=2.0, milliseconds=300.0, kept=180, kept_wrong=9, spent_usd=1.0
)


@pytest.fixture(scope="module")
def championed():
    predictions = [*arguments()["predictions"], *answers(90, model="champion")]
    teacher = answers(90, model="teacher"), ASKED_TEACHER
    return evaluation(predictions=predictions, versions=VERSIONS | {"champion": "3"}, teacher=teacher)


def _gate(name, result, task=None):
    return {g.name: g for g in decide(task or spec(), result)}[name]


def test_a_good_candidate_passes_every_gate():
    gates = decide(spec(), usual())
    assert all(g.passed and g.what_to_do == "" for g in gates) and {g.name for g in gates} == set(GATES)
    assert {g.name for g in gates if g.status == "passed"} >= ASKED
    assert [GateResult.model_validate(g.model_dump(mode="json")) for g in gates] == gates


def test_a_tie_does_not_beat_the_baseline():
    base, candidate = paired(80, 10, 10, 20)
    gate = _gate("beats_baseline", evaluation(predictions=[*base, *candidate]))
    assert gate.passed is False and gate.measured < 0
    assert "this test set shows gains of" in gate.message and gate.what_to_do
    base, candidate = paired(80, 8, 14, 20)
    ahead = evaluation(predictions=[*base, *candidate])
    assert ahead.comparison.gain > 0 and not _gate("beats_baseline", ahead).passed, "ahead, but not surely"
    for place, value in (("gains.0.interval", [0.0, 0.3]), ("shown", False)):
        assert not _gate("beats_baseline", changed(usual(), {f"decisions.baseline.{place}": value})).passed, place
    zero = {"decisions.simple.gains.0.interval": [0.0, 0.4]}
    assert not _gate("beats_commonest", changed(usual(), zero)).passed, "a lower bound of zero is a tie"


def test_the_gain_must_exceed_min_gain():
    low = usual().decisions.baseline.gains[0].interval[0]
    for min_gain, passes in ((low - 0.001, True), (low, False), (low + 0.001, False)):
        task = spec(gates={"min_gain": min_gain, "wanted_gain": 0.5})
        gate = _gate("beats_baseline", evaluation(spec=task), task)
        assert (gate.passed, gate.measured, gate.threshold) == (passes, low, min_gain)
    assert f"above {100 * min_gain:.1f}." in gate.message
    assert "points of ROUGE-L" in _gate("beats_baseline", text_evaluation(), text_spec()).message


def _beside_the_champion(lost, won, both):
    """The champion has `both` and `lost` right, the candidate `both` and `won`; the base model half as many."""
    before, after = paired(both, lost, won, 200 - both - lost - won)
    base, _ = paired(both // 2, 0, 0, 200 - both // 2)
    champion = [r | {"model": "champion"} for r in before]
    return {"predictions": [*base, *after, *champion], "versions": VERSIONS | {"champion": "3"}}


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
        task = spec(gates={"champion": mode, "champion_margin": 0.03})
        gate = _gate("beats_champion", evaluation(spec=task, **_beside_the_champion(lost, won, 150)), task)
        assert gate.passed is passes, (mode, gate.message)
        assert gate.threshold == (-0.03 if mode == "not_worse" else 0.0)
        assert ("a tie is no reason" in gate.message) is (mode == "not_worse" and lost == won == 0)


@pytest.mark.parametrize(
    ("lost", "won", "rows_right", "replaced"),
    [
        (0, 0, 150, True),  # the same answers
        (0, 0, 12, True),  # so few right rows that nothing could be shown
        (4, 2, 150, True),  # behind, but not surely
        (9, 1, 150, False),  # surely behind, by four points
        (9, 1, 150, True),  # as much as the margin allows
        (40, 40, 150, False),  # level, with surely more than a fifth of the right rows lost
    ],
)
def test_a_champion_trained_on_forgotten_rows_is_not_kept_by_a_tie(lost, won, rows_right, replaced):
    task = spec(gates={"champion_margin": 0.04 if (lost, replaced) == (9, True) else 0.02})
    rivals = _beside_the_champion(lost, won, rows_right - lost)
    usual_gates, gates = (
        {g.name: g for g in decide(task, evaluation(spec=task, champion_forgotten=forgotten, **rivals))}
        for forgotten in (False, True)
    )
    assert not usual_gates["beats_champion"].passed
    judged = gates["beats_champion"], gates["few_regressions"]
    assert all(gate.passed for gate in judged) is replaced, [gate.message for gate in judged]
    margin = task.gates.champion_margin
    assert (judged[0].threshold, judged[0].measured) == (-margin, pytest.approx((won - lost) / 200))
    assert "trained on forgotten rows" in judged[0].message and f"{100 * margin:.1f} points" in judged[0].message
    unmeasured = changed(evaluation(spec=task, champion_forgotten=True, **rivals), {"decisions.champion.gains": []})
    assert not _gate("beats_champion", unmeasured, task).passed


@pytest.mark.parametrize(
    ("lost", "right", "passes", "too_few"),
    [(0, 150, True, False), (12, 150, True, False), (30, 150, False, False), (0, 10, False, True), (0, 0, True, False)],
)
def test_rows_the_champion_has_right_must_not_be_lost(lost, right, passes, too_few):
    gate = _gate("few_regressions", evaluation(**_beside_the_champion(lost, 40, right - lost)))
    high = wilson_interval(lost, right)[1] if right else 0.0
    assert (gate.passed, gate.measured, gate.threshold) == (passes, pytest.approx(high), 0.2)
    assert (f"even a candidate that loses none could not show less than {percent(high)}" in gate.message) is too_few


def test_lost_rows_that_clump_in_sources_count_for_few():
    """Two of twelve sources that the champion has right are lost; what is won elsewhere says nothing of how losses clump."""
    predictions = _beside_the_champion(20, 40, 100)
    ids = [row["example_id"] for row in predictions["predictions"]]
    result = evaluation(**predictions, sources={i: str(int(i[1:]) // 10) for i in ids})
    high = clustered_share([float(i >= 100) for i in range(120)], [i // 10 for i in range(120)])[0][1]
    assert high > wilson_interval(2, 12)[1] > wilson_interval(20, 120)[1] + 0.2
    assert _gate("few_regressions", result).measured == pytest.approx(high)
    at_the_limit, below = (spec(gates={"max_regression": limit}) for limit in (high + 1e-9, high - 1e-9))
    assert _gate("few_regressions", result, at_the_limit).passed and not _gate("few_regressions", result, below).passed


@pytest.mark.parametrize(
    ("listed", "measured", "says"),
    [
        (["e0000"], 0, "1 listed example is right"),
        (["e0000", "e0099"], 0, "2 listed examples are all right"),
        # lost to the base; never right
        (["e0000", "e0100", "e0180"], 2, "Of 3 listed examples 2 wrong: e0100, e0180."),
        (["e0000", "nowhere"], 1, "0 wrong; 1 not in the sealed test and therefore unknown: nowhere"),
        ([f"x{i}" for i in range(5)], 5, "x4 ("),
        ([f"x{i}" for i in range(6)], 6, "x4 and 1 more ("),
    ],
)
def test_a_listed_example_must_be_in_the_test_and_right(listed, measured, says):
    gate = _gate("never_break", evaluation(never_break=listed), spec(gates={"never_break": listed}))
    assert (gate.passed, gate.measured, gate.threshold) == (measured == 0, measured, 0.0)
    assert says in gate.message and bool(gate.what_to_do) is not gate.passed


def _looks(n):
    """A ledger in which the candidate is the n-th of n."""
    return [OPENINGS[0] | {"candidate": f"c{n - i}"} for i in range(n)]


def test_every_further_candidate_meets_a_stricter_level():
    base, candidate = paired(100, 6, 20, 74)  # p is 0.006: enough for three looks
    base = [r | {"label_scores": []} for r in base]  # no restricted answers to beat beside them
    passed = []
    for looks in (1, 2, 3, 4):
        gate = _gate("beats_baseline", evaluation(predictions=[*base, *candidate], openings=_looks(looks)))
        assert gate.measured == pytest.approx(tango_interval(6, 20, 200, 1 - level_left(looks))[0])
        assert ("stricter" in gate.message) is (looks > 1)
        passed.append(gate.passed)
    assert passed == [True, True, True, False]
    assert "This is judgement 4 by this test" in gate.message


def test_all_named_metrics_must_gain():
    task = spec(gates={"more_metrics": ["macro_f1", "accuracy"]})  # a metric named twice counts once
    result = evaluation(spec=task)
    gate = _gate("beats_baseline", result, task)
    assert gate.passed is True
    for interval in ("points of accuracy (95% interval", "points of macro-F1 (95% interval"):
        assert gate.message.count(interval) == 2, "freely written and restricted answers, two metrics each"
    lost = {"gains.1.interval": [-0.01, 0.2], "gains.1.shown": False, "shown": False}
    refused = _gate("beats_baseline", changed(result, {f"decisions.baseline.{k}": v for k, v in lost.items()}), task)
    assert (refused.passed, refused.measured) == (False, -0.01)


def test_a_simple_model_that_leads_in_a_further_metric_holds_back():
    """The candidate is right more often than TF-IDF, but never names the rare label: its macro-F1 is lower."""
    gold = ["bug"] * 260 + ["billing"] * 20 + ["other"] * 20
    guesses = {
        "candidate": ["bug"] * 260 + ["billing"] * 20 + ["bug"] * 20,
        "base": ["bug"] * 100 + ["billing"] * 180 + ["bug"] * 20,
        "linear": ["bug"] * 215 + ["no label"] * 45 + ["billing"] * 20 + ["other"] * 20,
        "commonest": ["other"] * 300,
    }
    answered = {name: rows(list(zip(gold, texts, strict=True)), name) for name, texts in guesses.items()}
    ids = [r["example_id"] for r in answered["base"]]
    answered["base"] = [r | {"label_scores": []} for r in answered["base"]]
    simple = {name: dict(zip(ids, guesses[name], strict=True)) for name in ("linear", "commonest")}
    verdicts = []
    for more in ([], ["macro_f1"]):
        task = spec(gates={"more_metrics": more})
        predictions = [*answered["base"], *answered["candidate"]]
        result = evaluation(spec=task, predictions=predictions, simple=simple)
        verdicts.append((_gate("beats_baseline", result, task).passed, _gate("beats_commonest", result, task).passed))
        verdicts.append(_gate("beats_simple", result, task).passed)
    assert verdicts == [(True, True), True, (True, True), False]
    assert "TF-IDF and logistic regression: -" in _gate("beats_simple", result, task).message
    assert tied_with(result) == ["TF-IDF and logistic regression"], "named once, whatever the number of metrics"


def test_what_is_surely_no_better_than_min_score_is_refused():
    low = usual().score_interval[0]
    assert usual().scores["candidate"].accuracy == 0.8 and 0.73 < low < 0.75
    for least, status in ((low - 0.001, "passed"), (low, "passed"), (low + 0.001, "failed"), (None, "not_asked")):
        gate = _gate("min_score", usual(), spec(gates={"min_score": least}))
        assert (gate.status, gate.threshold) == (status, least)
        assert (gate.measured, "80.0%" in gate.message) == ((None, False) if least is None else (low, True))
    third = evaluation(openings=_looks(3))
    assert third.score_interval[0] < low, "a later judgement must be surer"


def test_min_score_of_an_error_rate_is_the_largest_allowed(monkeypatch):
    register_mirrored(monkeypatch)
    task = spec(gates={"metric": "wrong"})
    result = evaluation(spec=task)
    low, high = result.score_interval
    assert low < 0.2 < high
    for most, passes in ((high + 0.001, True), (high - 0.001, False)):
        assert _gate("min_score", result, spec(gates={"metric": "wrong", "min_score": most})).passed is passes


def test_a_merge_that_differs_is_refused():
    exact = PARITY | {"same_greedy_share": 0.9, "mean_kl": 1e-3, "mean_kl_limit": 1e-3}
    gate = _gate("merge_parity", changed(usual(), {"parity": exact}), spec(gates={"parity_min_agreement": 0.9}))
    assert (gate.passed, gate.measured, gate.threshold) == (True, 0.9, 0.9), "on the threshold"
    for change in ({"same_greedy_share": 0.86}, {"mean_kl": 0.01}, {"passed": False}, {"rows": 0}):
        assert _gate("merge_parity", changed(usual(), {"parity": PARITY | change})).passed is False, change


def test_invalid_answers_are_refused():
    pairs = [("bug", "bug")] * 190 + [("bug", "It is a bug")] * 10
    result = evaluation(predictions=[*rows(pairs, "base"), *rows(pairs, "candidate")])
    gate = _gate("format_compliance", result)
    assert (gate.passed, gate.measured) == (False, pytest.approx(0.910, abs=2e-3))
    assert "190 of 200 answers" in gate.message and "Even without" not in gate.message
    low = result.scores["candidate"].valid.interval[0]
    assert _gate("format_compliance", result, spec(gates={"min_valid_share": low})).passed is True
    for n in (124, 125):  # a test set too small to show it is told the number of rows
        places = {"scores.candidate.valid.interval": [0.9, 1.0], "scores.candidate.valid.n": n}
        small = _gate("format_compliance", changed(usual(), places), spec(gates={"min_valid_share": 0.97}))
        assert not small.passed and ("125 rows" in small.what_to_do) is (n == 124)
    assert "below 1" in _gate("format_compliance", usual(), spec(gates={"min_valid_share": 1.0})).what_to_do


@pytest.mark.parametrize(
    ("method", "wrong", "passes"), [("classifier", 0, True), ("classifier", 1, False), ("lora", 0, False)]
)
def test_a_model_that_can_answer_only_labels_needs_no_rows_to_show_its_form(method, wrong, passes):
    """Forty rows show no share of 95% of a model that writes its answers; whatever answered no label is refused all the same."""
    pairs = [("bug", "bug")] * (40 - wrong) + [("bug", "It is a bug")] * wrong
    result = evaluation(predictions=[*rows(pairs, "base"), *rows(pairs, "candidate")])
    task = spec(training={"method": method})
    gate = _gate("format_compliance", changed(result, {"task.method": method}), task)
    assert gate.passed is passes and (GATES["format_compliance"].least_rows(task) is None) is (method == "classifier")


def test_the_opening_must_be_on_record():
    assert _gate("sealed_test_openings", evaluation(openings=[])).passed is False
    assert _gate("sealed_test_openings", evaluation(openings=[OPENINGS[0] | {"candidate": "c2"}])).passed is False
    for looks, says in (
        (1, "opened once, for 1 candidate; this is judgement 1, by 95% intervals."),
        (2, "opened 2 times, for 2 candidates; this is judgement 2, by 98.33% intervals."),
    ):
        gate = _gate("sealed_test_openings", evaluation(openings=_looks(looks)))
        assert (gate.passed, gate.measured) == (True, looks) and says in gate.message
        assert ("at most 3.3%. Choosing the best of them flatters" in gate.message) is (looks == 2)


_PLACES = {
    "beats_baseline": ["decisions.baseline." + k for k in ("gains.0.gain", "gains.0.interval.0", "margin")],
    "beats_commonest": ["decisions.simple.gains.0." + k for k in ("gain", "interval.0")],
    "beats_simple": ["decisions.simple." + k for k in ("gains.2.gain", "gains.0.interval.0", "margin")],
    "beats_champion": ["decisions.champion.gains.0.gain", "decisions.champion.gains.0.interval.1"],
    "few_regressions": ["comparisons.champion." + k for k in ("b", "right_before", "lost_interval.1")],
    "not_worse_than_teacher": ["teacher.decision." + k for k in ("gains.0.gain", "gains.0.interval.0", "margin")],
    "never_break": ["never_break.listed"],
    "min_score": ["score_interval.0", "scores.candidate.primary.value"],
    "format_compliance": ["scores.candidate.valid." + k for k in ("n", "k", "interval.0")],
    "merge_parity": ["parity." + k for k in ("same_greedy_share", "mean_kl", "mean_kl_limit")],
    "sealed_test_openings": ["seal." + k for k in ("count", "candidates", "recorded", "level.look", "level.level")],
    "general_ability": ["ability." + k for k in ("drop", "interval.1", "text.before", "text.rise", "text.interval.0")],
    "robust": ["robustness.kinds.typos." + k for k in ("n", "drop")],
}
_COUNTS = {"b", "right_before", "listed", "n", "k", "rows", "count", "candidates", "recorded", "look"}
"""Ends of these places whose values are whole numbers or flags."""
_NEVER_NONE = {"ability." + k for k in ("interval.1", "text.before", "text.rise", "text.interval.0")}
"""Places in structs whose producers always write a number."""


@pytest.mark.parametrize("value", [math.nan, None])
def test_nothing_measured_nothing_passed(championed, value):
    """A value that is missing or not a finite number fails its gate, wherever the gate reads one."""
    task = spec(gates={"min_score": 0.5, "never_break": ["e0000"]}, teacher=TEACHER)
    assert all(gate.passed for gate in decide(task, championed))
    for name, places in _PLACES.items():
        for place in places:
            if value is None and place in _NEVER_NONE:
                with pytest.raises(ValidationError, match="ability"):
                    changed(championed, {place: value})
            elif value is None or place.rpartition(".")[2] not in _COUNTS:
                gate = _gate(name, changed(championed, {place: value}), task)
                assert gate.passed is False and gate.what_to_do, (name, place)


@pytest.mark.parametrize("value", ["1", {}])
def test_a_wrong_value_is_a_fault_and_does_not_read_as_not_measured(championed, value):
    for place in itertools.chain.from_iterable(_PLACES.values()):
        with pytest.raises(ValidationError, match=re.escape(place.partition(".")[0])):
            changed(championed, {place: value})


def test_parts_that_are_missing_do_not_pass(championed):
    empty = {
        "decisions.baseline.gains": [],
        "decisions.simple.gains": [],
        "decisions.champion": None,
        "parity": NOT_COMPARED,
    }
    empty |= {"comparisons.champion": None, "scores.candidate.valid": {}, "scores.base.statuses": {}, "seal.level": {}}
    empty |= {
        "never_break": {},
        "score_interval": None,
        "teacher": None,
        "ability": None,
        "people": None,
        "judge": None,
        "cost": None,
        "robustness": None,
        "training.refinement": SECOND_STAGE,
        "stages": None,
    }
    asked = {"min_rated": 1, "parts": ["raw/a.jsonl"], "min_preferred": 0.5, "min_score": 0.1, "never_break": ["e0000"]}
    task = spec(gates=asked, teacher=TEACHER, training={"refine": {"method": "kto"}})
    gates = decide(task, changed(championed, empty))
    assert [g.name for g in gates if g.passed] == ["automation", "recent_production"]
    assert all(g.measured is None for g in gates if g.name != "sealed_test_openings")


TWO_STAGES = {"training": {"refine": {"method": "dpo"}}}
PEOPLE = {"rated": 30, "refined": 28, "supervised": 2, "evidence": 900.0, "needed": 40.0}


def two_stages(lost, won, both=100, neither=60, people=None, task=None, **changes):
    """The evaluation of a second stage's model that has `won` rows right which the first stage's has not, and `lost` the other way
    round. people: Their comparison of both models' answers to validation rows."""
    base, _ = paired(both // 2, 0, 0, both // 2 + lost + won + neither)
    first, after = paired(both, lost, won, neither)
    first = [row | {"model": "supervised"} for row in first]
    refinement = {"choice": SECOND_STAGE["choice"] | {"people": people, "better": people is None}}
    predictions = [*base, *after, *first]
    training = TRAINING | {"refinement": refinement}
    return evaluation(
        **{"spec": task or spec(**TWO_STAGES), "predictions": predictions, "training": training, **changes}
    )


@pytest.mark.parametrize(
    ("lost", "won", "neither", "passes", "says"),
    [
        (5, 30, 65, True, "The sealed test confirms the second stage: +12.5 points of accuracy on 200 test rows"),
        (0, 6, 94, True, "with no sure loss in form"),
        (0, 5, 95, False, "four times in five on"),  # Tango's interval shows it, the exact test does not
        (0, 0, 100, False, "it is not surely better in the task's metric"),  # a tie keeps the first stage's model
        (10, 14, 76, False, "the test has 200"),
        (30, 5, 65, False, "-12.5 points"),
    ],
)
def test_the_second_stage_must_surely_beat_the_first_on_the_sealed_test(lost, won, neither, passes, says):
    result = two_stages(lost, won, neither=neither)
    gate = _gate("beats_supervised", result, spec(**TWO_STAGES))
    assert (gate.passed, gate.threshold) == (passes, 0.0) and says in gate.message, gate.message
    assert gate.measured == pytest.approx(tango_interval(lost, won, 200)[0], abs=1e-6)
    assert ("training.refine.method: none" in gate.what_to_do) is not passes
    compared = result.comparisons["supervised"]
    assert (compared.b, compared.c) == (lost, won) and result.models["supervised"].accuracy == (100 + lost) / 200
    assert gate.name not in [other.name for other in decide(spec(), result) if other.status != "not_asked"]


def test_rows_that_would_show_the_gain_of_a_second_stage_are_counted():
    needed = rows_needed_for_gain(0.02, 0.12)
    message = _gate("beats_supervised", two_stages(10, 14, neither=76), spec(**TWO_STAGES)).message
    assert (
        f"A true gain of 2.0 points would be shown four times in five on {needed:,} rows; the test has 200" in message
    )
    task = spec(gates={"metric": "macro_f1"}, **TWO_STAGES)
    message = _gate("beats_supervised", two_stages(10, 14, neither=76, task=task), task).message
    (rows_said,) = re.findall(r"four times in five on ([\d,]+) rows", message)
    assert int(rows_said.replace(",", "")) == pytest.approx(needed, rel=0.3), "labels are equally frequent"


def test_a_later_candidate_meets_a_stricter_level_for_its_second_stage():
    openings = [OPENINGS[0] | {"candidate": f"c{i}"} for i in (7, 8, 9, 1)]
    first, fourth = (two_stages(2, 12, openings=each) for each in (OPENINGS, openings))
    assert _gate("beats_supervised", first, spec(**TWO_STAGES)).passed
    gate = _gate("beats_supervised", fourth, spec(**TWO_STAGES))
    assert not gate.passed and "This is judgement 4 by this test" in gate.message
    assert gate.measured == pytest.approx(tango_interval(2, 12, 174, 1 - level_left(4, 0.05))[0], abs=1e-6)


def test_a_second_stage_that_people_prefer_needs_no_gain_but_must_lose_no_form():
    task = spec(output={"kind": "text"}, **TWO_STAGES)
    level = two_stages(10, 10, people=PEOPLE, task=task, baseline=text_baseline(task))
    gate = _gate("beats_supervised", level, task)
    assert gate.passed and gate.threshold is None and "its answer is better in 28" in gate.message
    asked = _gate("beats_supervised", two_stages(10, 10, task=task, baseline=text_baseline(task)), task)
    assert not asked.passed and "finetune review triage --what refined" in asked.what_to_do
    long = spec(output={"kind": "text", "max_chars": 8}, **TWO_STAGES)
    base, _ = paired(50, 0, 0, 150)
    first, after = paired(100, 10, 10, 80)
    longer = [row | {"text": row["text"] + " of course"} for row in after]
    rows = [*base, *longer, *(row | {"model": "supervised"} for row in first)]
    gate = _gate(
        "beats_supervised",
        two_stages(0, 0, people=PEOPLE, task=long, predictions=rows, baseline=text_baseline(long)),
        long,
    )
    assert not gate.passed and "it surely loses form; its answers surely exceed the length" in gate.message


def text_baseline(task):
    return score_baselines(task, {"zero_shot": rows([("bug", "bug")] * 20)}).to_json()


def test_nothing_is_asked_of_a_first_stage_that_goes_on():
    choice = SECOND_STAGE["choice"] | {"refined": False, "reasons": ["no sure gain"]}
    for refinement in ({"choice": choice}, {"too_few": "30 pairs"}):
        result = evaluation(spec=spec(**TWO_STAGES), training=TRAINING | {"refinement": refinement})
        gate = _gate("beats_supervised", result, spec(**TWO_STAGES))
        assert gate.status == "not_asked" and "nothing to confirm" in gate.message and result.stages is None


@pytest.mark.parametrize(("right", "margin", "passes"), [(165, 0.02, False), (165, 0.1, True), (150, 0.02, True)])
def test_a_student_must_surely_be_no_worse_than_its_teacher(right, margin, passes):
    """The candidate has 160 of 200 right, the teacher the first ones."""
    task = spec(gates={"teacher_margin": margin}, teacher=TEACHER)
    result = evaluation(spec=task, teacher=(answers(right, model="teacher"), ASKED_TEACHER))
    gate = _gate("not_worse_than_teacher", result, task)
    compared = result.teacher.comparison
    low, _ = tango_interval(compared.b, compared.c, 200)
    assert (gate.passed, gate.threshold) == (passes, -margin) and gate.measured == pytest.approx(low, abs=1e-6)
    assert result.teacher.noise == pytest.approx(wilson_interval(9, 180)) and compared.base == right / 200


@pytest.mark.parametrize(("right", "beaten"), [(130, True), (158, False)])
def test_a_teacher_worse_than_a_simple_model_is_named(right, beaten):
    task = spec(teacher=TEACHER)
    result = evaluation(
        spec=task, simple={"linear": _answers(160)}, teacher=(answers(right, model="teacher"), ASKED_TEACHER)
    )
    assert result.teacher.beaten_by == (["TF-IDF and logistic regression"] if beaten else [])


def test_a_teacher_that_answered_too_few_rows_is_not_taken_for_beaten():
    task = spec(teacher=TEACHER)
    few = evaluation(spec=task, teacher=(answers(0, n=19, model="teacher"), ASKED_TEACHER))
    gate = _gate("not_worse_than_teacher", few, task)
    assert not gate.passed and "it answered 19 rows, and 20 are needed" in gate.message
    assert _gate("not_worse_than_teacher", usual()).status == "not_asked"


BASE = paired(100, 5, 60, 35)[0]
WIDE = spec(gates={"simple": "not_worse", "simple_margin": 0.2})


def _answers(right_count):
    """A simple model's answers that are right on the first rows; the candidate has 160 of 200 right."""
    return {r["example_id"]: r["gold"] if i < right_count else "no label" for i, r in enumerate(BASE)}


@pytest.mark.parametrize("name", ["commonest", "linear"])
def test_every_simple_model_must_surely_be_beaten(name):
    simple_answers = {model: _answers(40) for model in ("commonest", "nearest", "linear")}
    blind = name == "commonest"  # nothing is learned where this one is not beaten: that is no reason to use it
    # beaten; as good as the candidate, a tie; a little worse, but not surely; better
    for right_count, above in ((100, 0.0), (160, -0.1), (157, -0.1), (190, -0.3)):
        gates = decide(spec(), evaluation(simple=simple_answers | {name: _answers(right_count)}))
        gate, beaten = {g.name: g for g in gates}["beats_simple"], right_count == 100
        assert gate.passed is beaten and gate.measured > above
        assert ("shipped instead" in gate.what_to_do) is not beaten
        failed = ["beats_commonest", "beats_simple"] if blind else ["beats_simple"]
        assert [g.name for g in gates if not g.passed] == ([] if beaten else failed)


def test_a_tie_with_a_simple_model_passes_only_where_the_spec_takes_it():
    gate = _gate("beats_simple", evaluation(spec=WIDE, simple={"linear": _answers(160)}), WIDE)
    assert gate.passed and gate.threshold == -0.2 and "tie with TF-IDF and logistic regression" in gate.message
    narrow = spec(gates={"simple": "not_worse", "simple_margin": 0.01})
    assert not _gate("beats_simple", evaluation(spec=narrow, simple={"linear": _answers(160)}), narrow).passed
    assert "must lie above -20.0." in gate.message
    won = _gate("beats_simple", evaluation(spec=WIDE, simple={"linear": _answers(40)}), WIDE)
    assert won.passed and "tie" not in won.message


def test_what_is_no_better_than_the_commonest_answer_is_refused_also_where_a_tie_would_do():
    result = evaluation(spec=WIDE, simple={"commonest": _answers(160), "linear": _answers(40)})
    gate = _gate("beats_commonest", result, WIDE)
    assert _gate("beats_simple", result, WIDE).passed and not gate.passed
    assert gate.threshold == 0.0 and gate.measured <= 0 and "labels that do not belong" in gate.what_to_do
    fields = evaluation(simple={"commonest": _answers(40), "commonest_fields": _answers(158)})
    gate = _gate("beats_commonest", fields)
    assert not gate.passed and "each field's commonest value" in gate.message


def _restricted_right(of):
    """Rows whose likeliest label is always the right one."""
    return [r | {"label_scores": [-0.1 if x == r["gold"] else -3.0 for x in LABELS]} for r in of]


def test_a_base_out_of_form_is_compared_by_its_restricted_answers():
    base, candidate = paired(100, 5, 60, 35)
    spoken = [r | {"text": f"I would say {r['text']}"} for r in base]
    gate = _gate("beats_baseline", evaluation(predictions=[*spoken, *candidate]))
    assert gate.passed and "Only 0.0% of the base model's answers are in form" in gate.message
    assert "its restricted answers decide" in gate.message
    compared = comparisons_table(evaluation(predictions=[*spoken, *candidate])).rows[0][0]
    assert compared == "base model, answer restricted to the allowed forms", "not the one with its best prompt"
    assert "+27.5 points" in gate.message, "the gain over the restricted answers, not over answers without form"
    tied, as_right = paired(90, 35, 40, 35)
    out_of_form = [r | {"text": f"I would say {r['text']}"} for r in tied]
    close = _gate("beats_baseline", evaluation(predictions=[*out_of_form, *as_right]))
    assert not close.passed and "With the disagreement found, this test set shows gains of" in close.message
    as_good = evaluation(predictions=[*_restricted_right(spoken), *candidate])
    assert not _gate("beats_baseline", as_good).passed
    beside = _gate("beats_baseline", evaluation(predictions=[*_restricted_right(base), *candidate]))
    assert not beside.passed and "its answers restricted to the allowed forms: -20.0 points" in beside.message
