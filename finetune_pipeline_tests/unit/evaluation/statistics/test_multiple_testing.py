"""Several scores looked at together: what is named as surely good enough, and how often wrongly."""

from functools import cache, partial

import numpy as np
import pytest

from finetune_pipeline.evaluation.statistics.multiple_testing import surely_at_least
from finetune_pipeline.evaluation.statistics.proportions import Interval, wilson_interval

LEAST, CONFIDENCE, RUNS = 0.9, 0.95, 3000


@cache
def _share(right: int, rows: int, confidence: float) -> Interval:
    return wilson_interval(right, rows, confidence)


def _named(right: list[int], rows: int) -> list[int]:
    return surely_at_least([partial(_share, k, rows) for k in right], LEAST, CONFIDENCE)


@pytest.mark.parametrize("rows", [100, 300, 1000])
@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_eight_scores_at_the_limit_are_named_as_rarely_as_one(rows: int, shared: float) -> None:
    """Eight alternatives, each right on exactly 90% of all rows, of which a share is answered alike by all; beside them four that
    are right on half of the rows."""
    random = np.random.default_rng(7)
    wrong = uncorrected = 0
    for _ in range(RUNS):
        common, own = random.random(rows) < LEAST, random.random((8, rows)) < LEAST
        right = np.where(random.random((8, rows)) < shared, common, own).sum(axis=1)
        right = [int(k) for k in (*right, *random.binomial(rows, 0.5, 4))]
        wrong += bool(_named(right, rows))
        uncorrected += any(_share(k, rows, CONFIDENCE)[0] >= LEAST for k in right)
    assert uncorrected / RUNS > 0.09, "by an ordinary interval each"
    assert wrong / RUNS <= 0.025 + 3 * (0.025 * 0.975 / RUNS) ** 0.5


def test_what_is_far_below_costs_no_power_and_what_is_as_good_costs_little() -> None:
    alone = next(k for k in range(270, 300) if _named([k], 300))
    assert _share(alone, 300, CONFIDENCE)[0] >= LEAST > _share(alone - 1, 300, CONFIDENCE)[0]
    assert _named([150] * 9 + [alone], 300) == [9]
    assert _named([270] * 7 + [alone], 300) == [], "it is the best of eight that may all be as good as the limit"
    assert _named([270] * 7 + [alone + 4], 300) == [7]
    assert _named([alone] * 8, 300) == list(range(8)), "eight that are all sure alone"


def test_nothing_is_named_without_an_interval() -> None:
    assert surely_at_least([], LEAST, CONFIDENCE) == []
    assert surely_at_least([lambda confidence: None, partial(_share, 300, 300)], LEAST, CONFIDENCE) == [1]
