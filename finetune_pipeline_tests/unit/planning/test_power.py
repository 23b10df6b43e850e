"""The plan for the size of the test set: its numbers against formulas, and its promise against simulation."""

from collections.abc import Sequence

import numpy as np
import pytest

from finetune_pipeline.evaluation.deciding import decide_gain
from finetune_pipeline.evaluation.rivals import Rival
from finetune_pipeline.evaluation.statistics.power import paired_power, rows_needed_for_gain, rows_needed_for_mean
from finetune_pipeline.planning.power import PowerPlan, expected_disagreement, power_bounds, power_plan
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, row, rows, spec, text_spec


def _prompt(right: Sequence[bool], name: str = "base") -> list[dict]:
    return [row(i, LABELS[i % 3], LABELS[(i + (not ok)) % 3], name) for i, ok in enumerate(right)]


def _share(share: float, n: int = 100) -> list[dict]:
    return _prompt([i < share * n for i in range(n)])


def _plan(of: TaskSpec, test_rows: int, prompt: list[dict]) -> PowerPlan:
    """The plan where this prompt is the strongest rival."""
    return power_plan(of, test_rows, Rival("p", 0.0, prompt))


def test_the_plan_of_a_label_task() -> None:
    result, share = _plan(spec(), 120, _share(0.6)), 0.6 * 0.35 + 0.4 * 0.65
    assert result.disagreement == pytest.approx(share)
    assert result.rows_needed == rows_needed_for_gain(0.05, share) == 1474
    assert result.examples_needed == 7370 and result.enough is False and 0.05 < result.power_now < 0.2
    assert result.sentence.startswith(
        "You have 120 test rows; seeing +5.0 points with a chance of 80.0% takes 1,474. "
        "These rows show gains of 17.0 points or more."
    )
    assert "collect 7,370 examples in all, raise split.test" in result.sentence
    assert _plan(spec(), 1473, _share(0.6)).enough is False
    result = _plan(spec(), 1474, _share(0.6))
    assert result.enough is True and "collect" not in result.sentence
    assert result.detectable_gain == pytest.approx(0.05) and result.power_now == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("right", [33, 80, 90])
def test_a_gain_of_all_that_is_left_has_a_plan(right: int) -> None:
    """1 - 0.9 < 0.1 in binary fractions."""
    result = _plan(spec(gates={"wanted_gain": (100 - right) / 100}), 3, _prompt([i < right for i in range(100)]))
    assert result.rows_needed and result.sentence.startswith("You have 3 test rows")


def test_the_plan_of_a_text_task_goes_by_the_spread_of_its_scores() -> None:
    answers = [f"the parcel {i} comes today" for i in range(60)]
    pairs = [(text, "the parcel" if i % 2 else text) for i, text in enumerate(answers)]
    result = _plan(text_spec(), 100, rows(pairs))
    values = [1.0 if i % 2 == 0 else 4 / 7 for i in range(60)]
    deviation = np.sqrt(2) * np.std(values, ddof=1)
    assert result.rows_needed == pytest.approx(rows_needed_for_mean(0.05, deviation), abs=1)
    assert result.disagreement is None and result.metric == "rougeLsum"
    assert result.detectable_gain == pytest.approx(2.8 * deviation / 10, rel=0.02)


def test_a_gain_has_to_be_shown_above_the_least_that_counts() -> None:
    above = {"wanted_gain": 0.07, "min_gain": 0.02}
    result, share = _plan(spec(gates=above), 300, _share(0.6)), expected_disagreement(0.6, 0.07)
    assert result.rows_needed == rows_needed_for_gain(0.05, share) > rows_needed_for_gain(0.07, share)
    assert result.power_now == pytest.approx(paired_power(300, 0.05, share, 0.05))
    pairs = [
        (f"the parcel {i} comes today", "the parcel" if i % 2 else f"the parcel {i} comes today") for i in range(60)
    ]
    text = _plan(text_spec(gates=above), 100, rows(pairs))
    deviation = np.sqrt(2) * np.std([1.0 if i % 2 == 0 else 4 / 7 for i in range(60)], ddof=1)
    assert text.rows_needed == pytest.approx(rows_needed_for_mean(0.05, deviation), abs=1)
    assert text.detectable_gain == pytest.approx(0.02 + 2.8 * deviation / 10, rel=0.02)
    bounds = power_bounds(text_spec(gates=above), 100)
    assert (bounds.fewest, bounds.most) == (1, rows_needed_for_mean(0.05, np.sqrt(2) / 2))
    assert bounds.sentence.startswith(f"You have 100 test rows; you need up to {bounds.most:,} to see +7.0 points")


def test_rows_of_one_source_say_less_than_rows_of_many() -> None:
    """Four rows of each source are right or wrong together: 100 rows are 25 independent ones."""
    prompt = _prompt([i // 4 % 5 < 3 for i in range(100)])
    alone = _plan(spec(), 120, prompt)
    sources = power_plan(spec(), 120, Rival("p", 0.0, prompt), [f"s{i // 4}" for i in range(100)])
    assert sources.design_effect == pytest.approx(4, rel=0.2) and alone.design_effect == 1.0
    assert sources.rows_needed == pytest.approx(sources.design_effect * alone.rows_needed, abs=1)
    assert sources.power_now < alone.power_now and sources.detectable_gain > alone.detectable_gain


def test_without_a_test_row_nothing_can_be_shown() -> None:
    result = _plan(spec(), 0, _share(0.6))
    assert result.power_now is None and result.detectable_gain is None and not result.enough
    assert "These rows cannot show any possible gain." in result.sentence


def test_what_the_scores_of_a_rival_cannot_tell_is_not_told() -> None:
    silent = _plan(text_spec(), 100, rows([("the parcel comes", "")] * 60))
    assert silent.rows_needed == rows_needed_for_mean(0.05, np.sqrt(0.05 * 0.95)), (
        "all alike, they have no spread to go by"
    )
    nearly = [("the parcel comes", "the parcel comes" if i % 20 else "the parcel") for i in range(60)]
    full = _plan(text_spec(), 100, rows(nearly))
    assert full.rows_needed is None and "is impossible" in full.sentence, "99 of 100 points"
    few = _plan(text_spec(), 3, rows([("one two three", "one" if i % 2 else "one two three") for i in range(60)]))
    assert few.detectable_gain is None, "not a gain of 60 points where 25 are left"


def test_a_useful_model_is_found_as_often_as_planned() -> None:
    """Models whose mistakes are unrelated, test sets as large as planned, the decision the gate makes."""
    random, before, gain = np.random.default_rng(4), 0.7, 0.12
    task = spec(gates={"wanted_gain": gain})
    n = _plan(task, 100, _share(before)).rows_needed
    passes = 0
    for _ in range(300):
        base, candidate = _prompt(random.random(n) < before), _prompt(random.random(n) < before + gain, "candidate")
        passes += decide_gain({"base": base}, candidate, task.output, ["accuracy"], level=0.05, margin=0.0).shown
    assert passes / 300 == pytest.approx(0.8, abs=0.07)


def test_before_any_prompt_was_tried_the_plan_lies_between_bounds() -> None:
    result = power_bounds(spec(), 120)
    for share in (0.0, 0.3, 0.475, 0.8, 0.95):
        assert result.fewest <= _plan(spec(), 120, _share(share)).rows_needed <= result.most
    assert result.most == rows_needed_for_gain(0.05, expected_disagreement(0.475, 0.05))
    assert result.fewest == rows_needed_for_gain(0.05, 0.05)
    needed = f"you need {result.fewest:,} to {result.most:,} to see +5.0 points"
    assert result.sentence.startswith(f"You have 120 test rows; {needed}")
    assert "too few in any case" in result.sentence
    assert "`finetune advise triage` measures it" in power_bounds(spec(), 500).sentence
    assert "enough in any case" in power_bounds(spec(), result.most).sentence


def test_the_plan_for_a_gain_in_coverage_shares_the_level_among_the_thresholds() -> None:
    """A prompt that is sure of 60 of 100 rows, all right, and has half of the others right."""
    task = spec(gates={"metric": "coverage", "wanted_gain": 0.1}, automation={"max_error": 0.05})
    bug, maybe_bug, maybe_other = [-0.02, -5, -5], [-0.6, -3, -1.0], [-1.0, -3, -0.6]
    prompt = [row(i, "bug", "bug", label_scores=bug) for i in range(60)]
    for i in range(60, 100, 2):
        prompt += [row(i, "bug", "bug", label_scores=maybe_bug), row(i + 1, "bug", "other", label_scores=maybe_other)]
    plan, share = _plan(task, 300, prompt), 0.6 * 0.3 + 0.4 * 0.7
    assert (plan.metric, plan.before, plan.must_reach) == ("coverage", pytest.approx(0.6), None)
    assert plan.disagreement == pytest.approx(share)
    assert plan.rows_needed == rows_needed_for_gain(0.1, share, alpha=0.05 / 20)
    assert "seeing +10.0 points of rows answered by itself with a chance of 80.0%" in plan.sentence
    groups = power_plan(task, 300, Rival("p", 0.0, prompt), [f"s{i // 4}-{i % 2}" for i in range(100)])
    assert groups.rows_needed == pytest.approx(2 * plan.rows_needed, abs=1), "of two rows of a source one counts"
    sure = _plan(task, 300, [{**r, "text": "bug", "label_scores": bug} for r in prompt])
    assert sure.rows_needed is None and "answers 100% by itself: a gain of +10.0 points" in sure.sentence
    bounds, of_accuracy = power_bounds(task, 300), power_bounds(spec(gates={"wanted_gain": 0.1}), 300)
    assert bounds.most > 1.5 * of_accuracy.most and "what prompting answers by itself" in bounds.sentence


def test_all_that_is_left_can_be_wanted_of_a_text_metric_too() -> None:
    """1 - 0.9 < 0.1 in binary fractions, and 0.3 + 0.3 + 0.4 is all there is."""
    task, pair = text_spec(gates={"wanted_gain": 0.1}), "the parcel comes"
    result = _plan(task, 100, rows([(pair, pair if i % 10 else "lost") for i in range(100)]))
    assert result.before == pytest.approx(0.9) and result.rows_needed, result.sentence
    large = _plan(spec(gates={"wanted_gain": 0.6, "min_gain": 0.3}), 1000, _share(0.3))
    assert large.detectable_gain is not None and 0.3 < large.detectable_gain < 0.6


def test_as_many_rows_as_the_fewest_are_enough_as_far_as_bounds_can_tell() -> None:
    fewest = power_bounds(spec(), 120).fewest
    assert [power_bounds(spec(), rows).enough for rows in (fewest - 1, fewest)] == [False, True]
    assert "too few in any case" not in power_bounds(spec(), fewest).sentence
