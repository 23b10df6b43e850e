"""Rows that share a source: against simulation, statsmodels and the unclustered formulas."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as some

from finetune_pipeline.evaluation.statistics.proportions import (
    cluster_sign_flip,
    clustered_share,
    clustered_tango_interval,
    design_effect,
    mcnemar_exact,
    tango_interval,
    wilson_interval,
)

ROWS = some.lists(some.tuples(some.integers(0, 1), some.integers(0, 1)), min_size=2, max_size=60)


def _clustered(random, groups, size, share, spread):
    """Right or wrong by a share that varies between sources."""
    shares = np.clip(random.beta(share * spread, (1 - share) * spread, groups), 0, 1)
    return (random.random((groups, size)) < shares[:, None]).astype(int).ravel(), np.repeat(range(groups), size)


@given(ROWS)
def test_rows_of_their_own_give_the_plain_intervals(rows):
    before, after = [r[0] for r in rows], [r[1] for r in rows]
    alone = list(range(len(rows)))
    told = clustered_share(after, alone)
    assert told["interval"] == pytest.approx(list(wilson_interval(sum(after), len(after))))
    assert told["design_effect"] == 1.0
    b = sum(x > y for x, y in rows)
    c = sum(y > x for x, y in rows)
    assert clustered_tango_interval(before, after, alone) == pytest.approx(tango_interval(b, c, len(rows)))


def test_design_effect_is_the_ratio_of_robust_to_plain_variance():
    right, source = _clustered(np.random.default_rng(0), 40, 6, 0.7, 3)
    plain = sm.OLS(right, np.ones(len(right))).fit()
    robust = plain.get_robustcov_results("cluster", groups=source, use_correction=False)
    expected = (robust.bse[0] ** 2 * 40 / 39) / plain.bse[0] ** 2
    assert design_effect(right, list(source)) == pytest.approx(expected, rel=1e-9)
    assert expected > 1.5


def test_without_an_error_the_largest_effect_is_taken():
    assert design_effect([1] * 12, ["a"] * 4 + ["b"] * 4 + ["c"] * 4) == 4.0
    told = clustered_share([1] * 12, ["a"] * 4 + ["b"] * 4 + ["c"] * 4)
    assert told["interval"][0] < wilson_interval(3, 3)[0] + 1e-9
    assert design_effect([1, 0, 1], ["a"] * 3) == 3.0


def test_clustered_share_covers_where_the_plain_interval_does_not():
    random, covered, naive = np.random.default_rng(2), [], []
    for _ in range(400):
        right, source = _clustered(random, 40, 8, 0.8, 2)
        low, high = clustered_share(right, list(source))["interval"]
        covered.append(low <= 0.8 <= high)
        low, high = wilson_interval(int(right.sum()), len(right))
        naive.append(low <= 0.8 <= high)
    assert np.mean(covered) > 0.92
    assert np.mean(naive) < 0.8


def test_clustered_tango_covers_where_the_plain_interval_does_not():
    random, covered, naive = np.random.default_rng(3), [], []
    for _ in range(300):
        kind = np.repeat(random.choice(3, 50, p=[0.15, 0.15, 0.7]), 6)  # a source is won, lost, or neither
        before, after = (kind == 0).astype(int), (kind == 1).astype(int)
        low, high = clustered_tango_interval(before, after, list(np.repeat(range(50), 6)))
        covered.append(low <= 0 <= high)
        low, high = tango_interval(int(before.sum()), int(after.sum()), 300)
        naive.append(low <= 0 <= high)
    assert np.mean(covered) > 0.92
    assert np.mean(naive) < 0.75


def test_sign_flips_of_single_rows_are_the_exact_mcnemar_test():
    for b, c in ((1, 7), (3, 9), (5, 5)):
        differences = [-1] * b + [1] * c + [0] * 30
        assert cluster_sign_flip(differences, range(len(differences))) == pytest.approx(mcnemar_exact(b, c), abs=1e-12)
    many = [-1] * 20 + [1] * 40
    assert cluster_sign_flip(many, range(60), 20000) == pytest.approx(mcnemar_exact(20, 40), abs=0.005)


def test_sign_flips_of_clusters_see_how_few_sources_there_are():
    differences, source = [1] * 12 + [-1] * 2, ["a"] * 6 + ["b"] * 6 + ["c"] * 2
    assert cluster_sign_flip(differences, source) == 0.5
    assert cluster_sign_flip(differences, range(14)) < 0.02
    assert cluster_sign_flip([1, -1], ["a", "a"]) == 1.0
