"""Several hypotheses and several looks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from statsmodels.stats.multitest import multipletests

from finetune_pipeline.evaluation.statistics.multiple_testing import holm, level_left, looks_spent, selection_optimism


@settings(max_examples=12)
@given(some.lists(some.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels(p):
    assert holm([]) == []
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
