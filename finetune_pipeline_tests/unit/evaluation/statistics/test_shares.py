"""Rates against scipy and statsmodels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from finetune_pipeline.evaluation.statistics.proportions import wilson_interval, z_value


@given(some.integers(1, 500), some.floats(0, 1), some.floats(0.55, 0.999))
def test_wilson_equals_statsmodels_also_for_parts_of_rows(n, share, confidence):
    k = share * n
    expected = proportion_confint(k, n, alpha=1 - confidence, method="wilson")
    assert wilson_interval(k, n, confidence) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("confidence", [0.95, 0.9999, 1 - 1e-12])
def test_the_quantile_keeps_its_digits_near_certainty(confidence):
    assert z_value(confidence) == pytest.approx(stats.norm.isf((1 - confidence) / 2), rel=1e-9)
