"""Numbers of rows against published formulas, statsmodels and simulation."""

import math
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from finetune_pipeline.evaluation.statistics.multiple_testing import holm, level_left, looks_spent, selection_optimism
from finetune_pipeline.evaluation.statistics.power import (
    paired_power,
    rows_needed_for_gain,
    rows_needed_for_mean,
    rows_needed_for_share,
    smallest_detectable_gain,
)
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval


def test_rows_needed_is_the_smallest_number_that_reaches_the_share():
    for share, n in ((0.5, 4), (0.9, 35), (0.97, 125), (0.99, 381)):
        assert rows_needed_for_share(share) == n
        assert wilson_interval(n, n)[0] >= share > wilson_interval(n - 1, n - 1)[0]
    assert rows_needed_for_share(1.0) is None


@pytest.mark.parametrize(
    ("n", "discordant", "gain"),
    [(312, 0.10, 0.05), (626, 0.20, 0.05), (155, 0.20, 0.10), (1960, 0.10, 0.02), (103, 0.30, 0.15)],
)
def test_smallest_detectable_gain_inverts_the_sample_size_formula(n, discordant, gain):
    assert smallest_detectable_gain(n, discordant) <= gain < smallest_detectable_gain(n - 1, discordant)
    assert rows_needed_for_gain(gain, discordant) == n


@pytest.mark.parametrize(("n", "gain", "discordant"), [(60, 0.05, 0.11), (80, 0.1, 0.2), (90, 0.0, 0.3)])
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


@given(some.lists(some.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels(p):
    assert holm([]) == []
    with patch("gc.collect"):  # statsmodels calls it every time, and each takes half a second here
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)


def test_levels_of_all_looks_together_stay_below_alpha():
    assert level_left(1) == 0.05
    assert [level_left(k) / 2 for k in (1, 2, 3)] == pytest.approx([0.05 / 2, 0.05 / 6, 0.05 / 12])
    assert sum(level_left(k) / 2 for k in range(1, 20_000)) == pytest.approx(0.05, abs=1e-5)
    assert looks_spent(20) == pytest.approx(sum(level_left(k) / 2 for k in range(1, 21)))
    assert looks_spent(20, 0.1) == pytest.approx(0.1 * 20 / 21)
    assert all(level_left(k) > level_left(k + 1) > 0 for k in range(1, 100))
    with pytest.raises(ValueError, match="from 1"):
        level_left(0)


def test_selection_optimism_equals_simulation_and_needs_a_choice():
    best = np.random.default_rng(0).binomial(60, 0.7, size=(20000, 4)).max(axis=1).mean() / 60
    assert selection_optimism(60, 0.7, 4) == pytest.approx(best - 0.7, abs=0.002)
    assert selection_optimism(60, 0.7, 1) == 0.0
    assert selection_optimism(60, 1.0, 9) == 0.0
