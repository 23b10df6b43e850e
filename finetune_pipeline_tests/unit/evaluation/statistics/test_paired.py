"""Paired right and wrong against scipy, statsmodels, published values and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar

from finetune_pipeline.evaluation.statistics.proportions import (
    mcnemar_exact,
    sign_test,
    tango_interval,
    tango_statistic,
    wilson_interval,
    z_value,
)


def test_tango_published_value():
    """Airway hyper-responsiveness before and after a transplant: 7 and 1 discordant of 21 (Fagerland et al. 2014)."""
    low, high = tango_interval(7, 1, 21)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


def _brute_force_score(b, c, n, gain):
    """Score statistic with the nuisance parameter found by maximising the likelihood numerically."""

    def negative_log_likelihood(p):  # p: probability that only the first is right
        cells = [(b, p), (c, p + gain), (n - b - c, 1 - 2 * p - gain)]
        return -sum(k * math.log(max(q, 1e-300)) for k, q in cells if k)

    lowest, highest = max(0.0, -gain), (1 - gain) / 2
    p = optimize.minimize_scalar(
        negative_log_likelihood, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-12}
    ).x
    return (c - b - n * gain) / math.sqrt(n * (2 * p + gain - gain * gain))


@pytest.mark.parametrize(("b", "c", "n"), [(7, 1, 21), (86, 150, 1600), (3, 9, 40), (20, 20, 100), (1, 30, 200)])
def test_tango_bounds_are_where_the_score_statistic_reaches_the_quantile(b, c, n):
    low, high = tango_interval(b, c, n, 0.95)
    assert _brute_force_score(b, c, n, low) == pytest.approx(1.959964, abs=1e-3)
    assert _brute_force_score(b, c, n, high) == pytest.approx(-1.959964, abs=1e-3)


def test_tango_covers_where_models_nearly_agree():
    """3% discordant pairs, n=100: Wald intervals cover 86% of the time, the score interval must reach 93%."""
    random = np.random.default_rng(1)
    draws = random.multinomial(100, [0.97, 0.01, 0.02], size=2000)
    intervals = {(b, c): tango_interval(int(b), int(c), 100) for _, b, c in draws}
    covered = [intervals[b, c][0] <= 0.01 <= intervals[b, c][1] for _, b, c in draws]
    assert np.mean(covered) > 0.93


@given(some.integers(0, 60), some.integers(0, 60))
def test_mcnemar_equals_statsmodels(b, c):
    if b + c:
        assert mcnemar_exact(b, c) == pytest.approx(mcnemar([[5, b], [c, 5]], exact=True).pvalue, rel=1e-9)


@given(some.integers(0, 40), some.integers(0, 40), some.integers(0, 200), some.floats(0.6, 0.999))
def test_tango_excludes_zero_exactly_when_mcnemars_score_does(b, c, agreeing, confidence):
    n = b + c + agreeing
    if not n:
        return
    low, high = tango_interval(b, c, n, confidence)
    assert -1 <= low <= high <= 1
    z, reached = z_value(confidence), (c - b) / math.sqrt(b + c) if b + c else 0.0
    if abs(reached - z) > 1e-6:
        assert (low > 0) == (reached > z)
    assert tango_statistic(b, c, n, 0.0) == pytest.approx(reached, abs=1e-9)


def test_sign_test_leaves_ties_out_but_counts_them():
    told = sign_test(14, 6, 10)
    assert told["p"] == pytest.approx(stats.binomtest(14, 20).pvalue)
    assert told["share"] == 0.7 and (told["n"], told["ties"]) == (30, 10)
    assert told["interval"] == pytest.approx(list(wilson_interval(14, 20)))
    nothing = sign_test(0, 0, 5)
    assert (nothing["share"], nothing["p"], nothing["interval"]) == (None, 1.0, [0.0, 1.0])
    with pytest.raises(ValueError, match="negative"):
        sign_test(1, 1, -1)
