"""The retraining decision: gain from a curve, cost, drift, and how long to wait."""

import math
import random
from pathlib import Path

import numpy as np
import pytest

from finetune_pipeline.baseline.learning_curve import MAX_CARRY, LearningCurve
from finetune_pipeline.production.retraining import Evidence, RowsWorth, decide_retraining, measure_curve
from finetune_pipeline_tests.unit.production.streams import drift_of, labels, make_spec, text

STILL, MOVED = drift_of(), drift_of("label_mix")


def worth(slope: float, wrong: float = 0.2) -> RowsWorth:
    """A curve that rose by `slope` in each of two doublings, to 1,000 rows and this share of wrong answers."""
    scores = np.array([1 - wrong - 2 * slope, 1 - wrong - slope, 1 - wrong])
    carried = np.full(3, MAX_CARRY / 2)
    return RowsWorth(LearningCurve((250, 500, 1000), scores, np.array([scores] * 3), carried))


def test_more_rows_are_worth_nothing_on_a_curve_that_does_not_rise() -> None:
    for slope in (0.0, -0.1):
        assert worth(slope).gain(1000, 0.2) == (0, 0, 0) and worth(slope).rows_for(0.01, 0.2) is None
    assert worth(0.1).gain(1000, 0.2) == pytest.approx((0.0625,) * 3), "five eighths of the last doubling"
    assert worth(0.1).gain(1000, 0.1).middle == pytest.approx(0.0625 / 2), "the same share of half the mistakes"
    assert worth(0.1).points == [(250, 0.4), (500, 0.3), (1000, 0.2)]


def test_the_curve_of_a_learnable_task_falls_and_its_promise_holds() -> None:
    rng = random.Random(0)

    def rows(n: int) -> list[tuple[str, str]]:
        return [(text(rng, label), label) for label in labels(rng, n)]

    train, more, validation = rows(240), rows(720), rows(400)
    curve = measure_curve(train, validation)
    assert curve is not None
    first, last = curve.points[0][1], curve.points[-1][1]
    assert last < first
    low, middle, high = curve.gain(720, last)
    assert 0 <= low <= middle <= high <= last and low < high
    longer = measure_curve(train + more, validation)
    assert longer is not None
    assert low - 0.02 <= last - longer.points[-1][1] <= high + 0.02
    measured = measure_curve(train[:80], validation[:20])
    assert measured is not None and measured.curve.sizes[-1] == 80, "the fewest rows"
    assert measure_curve(train[:79], validation) is None and measure_curve(train, validation[:19]) is None
    first_label, second_label, *_ = dict.fromkeys(label for _, label in train)
    of_two = [pair for pair in train + more if pair[1] in (first_label, second_label)]
    of_one = [pair for pair in of_two if pair[1] == first_label]
    assert len(of_one) >= 80 and measure_curve(of_one, validation) is None
    assert measure_curve(of_two, validation) is not None


def test_enough_expected_gain_trains_too_little_waits_for_a_number(tmp_path: Path) -> None:
    spec = make_spec(retraining={"min_gain": 0.01})
    steep = decide_retraining(spec, STILL, Evidence(500, 0.2, worth(0.1)), tmp_path)
    assert steep.retrain
    assert steep.gain.middle == pytest.approx(0.0625 * math.log2(1.5), abs=1e-4)
    assert steep.sentence.startswith("Train again: 500 new rows are expected to add 3.7 points")
    few = decide_retraining(spec, STILL, Evidence(50, 0.2, worth(0.1)), tmp_path)
    assert not few.retrain
    # 0.01 is 0.16 of what the next doubling adds: 1,000 (2 ^ 0.16 - 1) = 117.3
    assert few.wait_for_rows == 68
    assert few.sentence.startswith("Wait for 68 more rows")
    exact = make_spec(retraining={"min_gain": worth(0.1).gain(500, 0.2).middle})
    assert decide_retraining(exact, STILL, Evidence(500, 0.2, worth(0.1)), tmp_path).retrain, (
        "what is required is enough"
    )
    flat = decide_retraining(spec, STILL, Evidence(500, 0.2, worth(0.0)), tmp_path)
    assert flat.sentence.startswith("Do not train again")
    # 0.1 (0.625 + 0.625 ^ 2 + … + 0.625 ^ 7) = 0.1605 after seven doublings, as far as the curve is followed
    far, too_far = (make_spec(retraining={"min_gain": gain}) for gain in (0.16, 0.161))
    assert decide_retraining(far, STILL, Evidence(1, 0.2, worth(0.1)), tmp_path).wait_for_rows > 64_000
    assert decide_retraining(too_far, STILL, Evidence(1, 0.2, worth(0.1)), tmp_path).wait_for_rows is None


@pytest.mark.parametrize(("usable", "wait"), [(49, 1), (50, None)])
def test_without_a_curve_or_a_known_share_of_mistakes_the_number_of_rows_decides(tmp_path: Path, usable, wait) -> None:
    spec = make_spec(logs={"min_new_rows": 50})
    for evidence in (Evidence(usable), Evidence(usable, 0.2), Evidence(usable, None, worth(0.1))):
        decision = decide_retraining(spec, STILL, evidence, tmp_path)
        assert (decision.retrain, decision.wait_for_rows, decision.gain) == (wait is None, wait, None)


def test_no_gain_is_expected_of_no_rows_nor_more_than_the_mistakes_there_are() -> None:
    curve = worth(0.1)
    assert curve.rows_for(0.01, 0) is None and curve.rows_for(0.2, 0.2) is None, "no more than there is"
    assert curve.gain(0, 0.2).middle == 0 and 0.16 < curve.gain(10**6, 0.2).middle < 0.2
    assert worth(0.0, wrong=0).gain(500, 0.2).middle == 0, "where no answer is wrong, nothing is to be gained"


def test_after_drift_the_old_curve_does_not_count(tmp_path: Path) -> None:
    flat = worth(0.0)
    assert decide_retraining(make_spec(), MOVED, Evidence(20, 0.2, flat), tmp_path).retrain
    assert not decide_retraining(make_spec(), MOVED, Evidence(19, 0.2, flat), tmp_path).retrain
    few = decide_retraining(make_spec(), MOVED, Evidence(3, 0.2, flat), tmp_path)
    assert (few.retrain, few.wait_for_rows) == (False, 17)
    assert "label some" in few.sentence
