"""Agreement of raters against scikit-learn, statsmodels and Krippendorff's own example."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa as reference

from finetune_pipeline.evaluation import statistics as st

A = "aabbbccaabcbacbbacabccabba"
B = "aabbaccabbcbacbaacabccbbba"
N = None
KRIPPENDORFF = [  # four observers, twelve units (Krippendorff 2011, part C)
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]


@given(some.lists(some.tuples(some.integers(1, 4), some.integers(1, 4)), min_size=2, max_size=40))
@pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
def test_kappa_equals_scikit_learn(weights, pairs):
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    found = st.cohens_kappa(a, b, weights, order=[1, 2, 3, 4])
    if len({*a, *b}) < 2:
        assert found is None
        return
    expected = cohen_kappa_score(a, b, labels=[1, 2, 3, 4], weights=None if weights == "none" else weights)
    assert found == pytest.approx(expected, abs=1e-12)


def test_kappas_interval_is_about_the_asymptotic_one():
    low, high = st.kappa_interval(A * 4, B * 4, resamples=4000)
    table = [[sum(x == r and y == s for x, y in zip(A * 4, B * 4, strict=True)) for s in "abc"] for r in "abc"]
    told = reference(np.array(table))
    assert st.cohens_kappa(A, B) == pytest.approx(told.kappa)
    assert (low, high) == pytest.approx((told.kappa_low, told.kappa_upp), abs=0.03)


def test_kappa_without_variety_is_undefined():
    assert st.cohens_kappa("aaa", "aaa") is None
    assert st.kappa_interval("aaa", "aaa") is None
    assert st.cohens_kappa("aab", "aba") == pytest.approx(-0.5)


@pytest.mark.parametrize(("scale", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_own_example(scale, expected):
    assert round(st.krippendorffs_alpha(KRIPPENDORFF, scale), 3) == expected


def test_alpha_of_two_complete_raters_is_about_kappa_and_perfect_agreement_is_one():
    assert st.krippendorffs_alpha([list(A) * 20, list(B) * 20]) == pytest.approx(st.cohens_kappa(A, B), abs=0.005)
    assert st.krippendorffs_alpha([[1, 2, 3], [1, 2, 3]]) == 1.0
