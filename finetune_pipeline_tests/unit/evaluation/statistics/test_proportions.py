"""Paired right and wrong against scipy, statsmodels, published values and brute force."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as some
from scipy import optimize, stats
from sklearn.metrics import cohen_kappa_score, confusion_matrix
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa as reference
from statsmodels.stats.proportion import proportion_confint

from finetune_pipeline.evaluation.statistics.proportions import (
    cluster_sign_flip,
    clustered_share,
    clustered_tango_interval,
    design_effect,
    effective_sources,
    mcnemar_exact,
    sign_test,
    tango_interval,
    tango_statistic,
    wilson_interval,
    z_value,
)
from finetune_pipeline.evaluation.statistics.resampling import cohens_kappa, kappa_interval


def _brute_force_score(b, c, n, gain):
    """Score statistic with the nuisance parameter found by maximising the likelihood numerically."""

    def negative_log_likelihood(p):  # p: probability that only the first is right
        cells = [(b, p), (c, p + gain), (n - b - c, 1 - 2 * p - gain)]
        return -sum(k * math.log(max(q, 1e-300)) for k, q in cells if k)

    lowest, highest = max(0.0, -gain), (1 - gain) / 2
    how = {"bounds": (lowest, highest), "method": "bounded", "options": {"xatol": 1e-12}}
    p = optimize.minimize_scalar(negative_log_likelihood, **how).x
    return (c - b - n * gain) / math.sqrt(n * (2 * p + gain - gain * gain))


@pytest.mark.parametrize(("b", "c", "n"), [(7, 1, 21), (86, 150, 1600), (3, 9, 40), (20, 20, 100), (1, 30, 200)])
def test_tango_bounds_are_where_the_score_statistic_reaches_the_quantile(b, c, n):
    low, high = tango_interval(b, c, n, 0.95)
    assert _brute_force_score(b, c, n, low) == pytest.approx(1.959964, abs=1e-3)
    assert _brute_force_score(b, c, n, high) == pytest.approx(-1.959964, abs=1e-3)
    if n == 21:  # airway hyper-responsiveness before and after a transplant (Fagerland et al. 2014)
        assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


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
    test = sign_test([1] * 14 + [-1] * 6 + [0] * 10)
    assert test.p == pytest.approx(stats.binomtest(14, 20).pvalue)
    assert test.share == 0.7 and (test.n, test.losses, test.ties) == (30, 6, 10)
    assert test.interval == pytest.approx(list(wilson_interval(14, 20)))
    nothing = sign_test([0] * 5)
    assert (nothing.share, nothing.p, nothing.interval) == (None, 1.0, (0.0, 1.0))
    of_sources = sign_test([1] * 14 + [-1] * 6 + [0] * 10, [i // 5 for i in range(30)])
    assert of_sources.share == 0.7 and of_sources.p > 0.3 and of_sources.interval[0] < 0.25, "four sources decide"


@given(some.integers(1, 500), some.floats(0, 1), some.floats(0.55, 0.999))
def test_wilson_equals_statsmodels_also_for_parts_of_rows(n, share, confidence):
    k = share * n
    expected = proportion_confint(k, n, alpha=1 - confidence, method="wilson")
    assert wilson_interval(k, n, confidence) == pytest.approx(expected, abs=1e-9)
    for sure in (0.95, 0.9999, 1 - 1e-12):
        assert z_value(sure) == pytest.approx(stats.norm.isf((1 - sure) / 2), rel=1e-9), "digits near certainty"


ROWS = some.lists(some.tuples(some.integers(0, 1), some.integers(0, 1)), min_size=2, max_size=60)


def _clustered(random, groups, size, share, spread):
    """Right or wrong by a share that varies between sources."""
    shares = np.clip(random.beta(share * spread, (1 - share) * spread, groups), 0, 1)
    return (random.random((groups, size)) < shares[:, None]).astype(int).ravel(), np.repeat(range(groups), size)


@given(ROWS)
def test_rows_of_their_own_give_the_plain_intervals(rows):
    before, after = [r[0] for r in rows], [r[1] for r in rows]
    alone = list(range(len(rows)))
    interval, effect = clustered_share(after, alone)
    assert interval == pytest.approx(wilson_interval(sum(after), len(after))) and effect == 1.0
    b, c = sum(x > y for x, y in rows), sum(y > x for x, y in rows)
    assert clustered_tango_interval(before, after, alone) == pytest.approx(tango_interval(b, c, len(rows)))


def test_design_effect_is_the_ratio_of_robust_to_plain_variance():
    hits, source = _clustered(np.random.default_rng(0), 40, 6, 0.7, 3)
    naive = sm.OLS(hits, np.ones(len(hits))).fit()
    robust = naive.get_robustcov_results("cluster", groups=source, use_correction=False)
    expected = (robust.bse[0] ** 2 * 40 / 39) / naive.bse[0] ** 2
    assert design_effect(hits, list(source)) == pytest.approx(expected, rel=1e-9)
    assert expected > 1.5


def test_without_an_error_the_largest_effect_is_taken():
    assert design_effect([1] * 12, ["a"] * 4 + ["b"] * 4 + ["c"] * 4) == 4.0
    assert clustered_share([1] * 12, ["a"] * 4 + ["b"] * 4 + ["c"] * 4)[0][0] < wilson_interval(3, 3)[0] + 1e-9
    assert design_effect([1, 0, 1], ["a"] * 3) == 3.0
    assert clustered_share([1, 0, 1], ["a"] * 3)[0] == pytest.approx(wilson_interval(2 / 3, 1, freedom=1))
    few, codes, t2 = (
        [float(i % 10 == 0 and i < 50) for i in range(100)],
        [i // 10 for i in range(100)],
        stats.t.ppf(0.975, 9) ** 2,
    )
    effect = design_effect(few, codes, (0.05 * 10 + t2 / 2) / (10 + t2))
    assert clustered_share(few, codes)[1] == pytest.approx(effect) and effect > 2 and design_effect(few, codes) == 1.0


def test_losses_that_clump_in_a_few_sources_show_no_gain_more_often_than_said():
    """One source in ten is lost for the greater part, and as many rows are won here and there."""
    random, source, gains_shown = np.random.default_rng(8), np.repeat(range(20), 10), 0
    for _ in range(200):
        lost = (random.random(20) < 0.1)[source] & (random.random(200) < 0.6)
        won = ~lost & (random.random(200) < 0.06)
        gains_shown += clustered_tango_interval(lost.astype(float), won.astype(float), source.tolist())[0] > 0
    assert gains_shown <= 10  # 2.5% of 200 are 5; by the design effect of the differences alone it was 13%


def test_rows_all_alike_in_their_sources_count_as_one_and_errors_that_do_not_clump_cost_nothing():
    codes = [i // 4 for i in range(120)]
    before, after = ([float(code % 3 == kind) for code in codes] for kind in (0, 1))
    expected = tango_interval(10, 10, 30, freedom=29)
    assert clustered_tango_interval(before, after, codes) == pytest.approx(expected, abs=0.02)
    assert clustered_share([1.0, 1.0, 0.0] * 80, [i // 6 for i in range(240)])[1] == 1.0


def test_one_large_source_among_small_ones_leaves_little_freedom():
    assert effective_sources(["a"] * 57 + [i // 3 for i in range(57)]) == pytest.approx(114**2 / (57**2 + 19 * 9))
    even, uneven = [i // 6 for i in range(114)], ["a"] * 57 + [i // 3 for i in range(57)]
    hits = [1.0, 1.0, 0.0] * 38
    assert clustered_share(hits, uneven)[0][0] < clustered_share(hits, even)[0][0] - 0.1


def test_clustered_intervals_cover_where_the_plain_ones_do_not():
    random, covered = np.random.default_rng(2), []
    for _ in range(300):
        hits, source = _clustered(random, 40, 8, 0.8, 2)
        kind = np.repeat(random.choice(3, 50, p=[0.15, 0.15, 0.7]), 6)  # a source is won, lost, or neither
        before, after = (kind == 0).astype(int), (kind == 1).astype(int)
        share, truth = (clustered_share(hits, list(source))[0], wilson_interval(int(hits.sum()), len(hits))), 0.8
        gain = clustered_tango_interval(before, after, list(np.repeat(range(50), 6)))
        gains = (gain, tango_interval(int(before.sum()), int(after.sum()), 300))
        covered.append([low <= truth <= high for low, high in share] + [low <= 0 <= high for low, high in gains])
    share, plain_share, gain, plain_gain = np.mean(covered, axis=0)
    assert min(share, gain) > 0.92 and plain_share < 0.8 and plain_gain < 0.75


def test_sign_flips_of_single_rows_are_the_exact_mcnemar_test():
    for b, c in ((1, 7), (3, 9), (5, 5)):
        differences = [-1] * b + [1] * c + [0] * 30
        assert cluster_sign_flip(differences, range(len(differences))) == pytest.approx(mcnemar_exact(b, c), abs=1e-12)
    many = [-1] * 20 + [1] * 40
    assert cluster_sign_flip(many, range(60)) == mcnemar_exact(20, 40)
    differences, source = [1] * 12 + [-1] * 2, ["a"] * 6 + ["b"] * 6 + ["c"] * 2
    assert cluster_sign_flip(differences, source) == 0.5, "three sources, though 14 rows"
    assert cluster_sign_flip(differences, range(14)) < 0.02 and cluster_sign_flip([1, -1], ["a", "a"]) == 1.0


@given(some.lists(some.tuples(some.integers(1, 4), some.integers(1, 4)), min_size=2, max_size=40))
def test_kappa_equals_scikit_learn(pairs):
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    if len({*a, *b}) < 2:
        assert cohens_kappa(a, b) is None and kappa_interval(a, b) is None
    else:
        assert cohens_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)


def test_kappas_interval_is_about_the_asymptotic_one():
    a, b = list("aabbbccaabcbacbbacabccabba" * 4), list("aabbaccabbcbacbaacabccbbba" * 4)
    expected = reference(np.array(confusion_matrix(a, b)))
    low, high = kappa_interval(a, b)
    assert (low, high) == pytest.approx((expected.kappa_low, expected.kappa_upp), abs=0.03)
    repeated = kappa_interval(a, b, [i % 26 for i in range(len(a))])  # 26 sources, each rated four times alike
    assert repeated[1] - repeated[0] > 1.7 * (high - low) and kappa_interval(a, b, ["a"] * len(a)) is None
    low, high = kappa_interval(a, b, [max(0, i - 91) for i in range(len(a))])  # 92 rows of one source, and 12 others
    assert low < 0, "counted as little more than one source"
    assert 0.4 < kappa_interval(list("ab") * 15, list("ab") * 15)[0] < 0.9, "thirty items without a contradiction"
