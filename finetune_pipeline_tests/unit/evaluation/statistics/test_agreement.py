"""Agreement of raters against scikit-learn and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa as reference

from finetune_pipeline.evaluation.statistics.agreement import cohens_kappa, kappa_interval

A = "aabbbccaabcbacbbacabccabba"
B = "aabbaccabbcbacbaacabccbbba"


@given(some.lists(some.tuples(some.integers(1, 4), some.integers(1, 4)), min_size=2, max_size=40))
def test_kappa_equals_scikit_learn(pairs):
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    found = cohens_kappa(a, b)
    if len({*a, *b}) < 2:
        assert found is None and kappa_interval(a, b) is None
    else:
        assert found == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)


def test_kappas_interval_is_about_the_asymptotic_one():
    low, high = kappa_interval(A * 4, B * 4)
    table = [[sum(x == r and y == s for x, y in zip(A * 4, B * 4, strict=True)) for s in "abc"] for r in "abc"]
    expected = reference(np.array(table))
    assert cohens_kappa(A, B) == pytest.approx(expected.kappa)
    assert (low, high) == pytest.approx((expected.kappa_low, expected.kappa_upp), abs=0.03)
