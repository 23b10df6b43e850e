"""Numbers of rows against published formulas, statsmodels and simulation."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats
from statsmodels.stats.power import TTestPower

from finetune_pipeline.evaluation.statistics.multiple_testing import level_left
from finetune_pipeline.evaluation.statistics.power import (
    paired_power,
    rows_needed_for_gain,
    rows_needed_for_mean,
    rows_needed_for_share,
    smallest_detectable_gain,
)
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval


def test_rows_needed_is_the_smallest_number_that_reaches_the_share():
    for share in (0.5, 0.9, 0.95, 0.97, 0.99):
        n = rows_needed_for_share(share)
        assert wilson_interval(n, n)[0] >= share > wilson_interval(n - 1, n - 1)[0]
    assert rows_needed_for_share(0.97) == 125
    assert rows_needed_for_share(1.0) is None


@pytest.mark.parametrize(
    ("n", "discordant", "gain"),
    [(312, 0.10, 0.05), (626, 0.20, 0.05), (155, 0.20, 0.10), (1960, 0.10, 0.02), (103, 0.30, 0.15)],
)
def test_smallest_detectable_gain_inverts_the_sample_size_formula(n, discordant, gain):
    assert smallest_detectable_gain(n, discordant) <= gain < smallest_detectable_gain(n - 1, discordant)
    assert rows_needed_for_gain(gain, discordant) == n


@given(some.floats(0.01, 0.3), some.floats(0.0, 0.5))
def test_the_needed_rows_show_the_gain_and_no_fewer_do(gain, more):
    discordant = min(1.0, gain + more)
    n = rows_needed_for_gain(gain, discordant)
    assert smallest_detectable_gain(n, discordant) <= gain + 1e-9
    if n > 2:
        fewer = smallest_detectable_gain(n - 2, discordant)
        assert fewer is None or fewer > gain - 1e-9


@pytest.mark.parametrize(("n", "gain", "discordant"), [(60, 0.1, 0.2), (200, 0.05, 0.11), (120, 0.0, 0.3)])
def test_paired_power_equals_summing_over_all_tables(n, gain, discordant):
    total = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            if (c - b) / math.sqrt(b + c or 1) > 1.959964:
                total += stats.multinomial.pmf(
                    [b, c, n - b - c], n, [(discordant - gain) / 2, (discordant + gain) / 2, 1 - discordant]
                )
    assert paired_power(n, gain, discordant) == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("look", [1, 2, 5, 20])
@pytest.mark.parametrize("n", [60, 200, 500])
def test_a_useless_candidate_is_promoted_no_more_often_than_its_level_says(n, look):
    """Exact, over all shares of disagreement: the score test exceeds half its two-sided level by a tenth at most."""
    level = level_left(look)
    worst = max(paired_power(n, 0.0, share, level) for share in (0.005, 0.01, 0.03, 0.05, 0.1, 0.2, 0.4, 0.8))
    assert 0 < worst <= 1.1 * level / 2


def test_rows_needed_for_a_mean_are_those_of_a_paired_t_test():
    expected = TTestPower().solve_power(effect_size=0.05 / 0.4, alpha=0.05, power=0.8)
    assert rows_needed_for_mean(0.05, 0.4) == pytest.approx(expected, abs=3)
    with pytest.raises(ValueError, match="above 0"):
        rows_needed_for_mean(0.0, 0.4)
