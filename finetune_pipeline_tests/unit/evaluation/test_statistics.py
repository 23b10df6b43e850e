"""Statistics against scipy, scikit-learn, published values and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.metrics import f1_score

from finetune_pipeline.evaluation import statistics as st


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (81, 263), (10, 10), (985, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_equals_scipy(k, n, confidence):
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert st.wilson_interval(k, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_without_rows_knows_nothing():
    assert st.wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(k, n):
    with pytest.raises(ValueError, match="not a share"):
        st.wilson_interval(k, n)


def test_rows_needed_is_the_smallest_number_that_reaches_the_share():
    for share in (0.5, 0.9, 0.95, 0.97, 0.99):
        n = st.rows_needed_for_share(share)
        assert st.wilson_interval(n, n)[0] >= share > st.wilson_interval(n - 1, n - 1)[0]
    assert st.rows_needed_for_share(0.97) == 125
    assert st.rows_needed_for_share(1.0) is None


def test_tango_published_value():
    """Airway hyper-responsiveness before and after a transplant: 7 and 1 discordant of 21 (Fagerland et al. 2014)."""
    low, high = st.tango_interval(7, 1, 21)
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
    low, high = st.tango_interval(b, c, n, 0.95)
    assert _brute_force_score(b, c, n, low) == pytest.approx(1.959964, abs=1e-3)
    assert _brute_force_score(b, c, n, high) == pytest.approx(-1.959964, abs=1e-3)


def test_tango_is_symmetric_and_holds_the_estimate():
    for b, c, n in [(0, 0, 50), (0, 5, 50), (4, 11, 60), (0, 10, 10)]:
        low, high = st.tango_interval(b, c, n)
        assert low <= (c - b) / n <= high
        assert st.tango_interval(c, b, n) == pytest.approx((-high, -low), abs=1e-9)


def test_tango_extremes():
    low, high = st.tango_interval(0, 0, 100)
    assert low == pytest.approx(-high) and high == pytest.approx(1.96**2 / (100 + 1.96**2), abs=1e-4)
    assert st.tango_interval(0, 10, 10)[1] == 1.0
    assert st.tango_interval(10, 0, 10)[0] == -1.0


def test_tango_covers_where_models_nearly_agree():
    """3% discordant pairs, n=100: Wald intervals cover 86% of the time, the score interval must reach 93%."""
    random = np.random.default_rng(1)
    draws = random.multinomial(100, [0.97, 0.01, 0.02], size=2000)
    intervals = {(b, c): st.tango_interval(int(b), int(c), 100) for _, b, c in draws}
    covered = [intervals[b, c][0] <= 0.01 <= intervals[b, c][1] for _, b, c in draws]
    assert np.mean(covered) > 0.93


@pytest.mark.parametrize(("b", "c", "n"), [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_tango_refuses_impossible_counts(b, c, n):
    with pytest.raises(ValueError, match="discordant"):
        st.tango_interval(b, c, n)


@pytest.mark.parametrize(("b", "c"), [(0, 1), (3, 9), (20, 148), (7, 7), (0, 12), (600, 700)])
def test_mcnemar_equals_binomial_test(b, c):
    assert st.mcnemar_exact(b, c) == pytest.approx(stats.binomtest(b, b + c).pvalue, rel=1e-9)


def test_mcnemar_without_disagreement_shows_nothing():
    assert st.mcnemar_exact(0, 0) == 1.0


def _answers(seed, n=120, right_a=0.6, right_b=0.8):
    random = np.random.default_rng(seed)
    labels = ["x", "y", "z"]
    gold = [labels[i] for i in random.integers(0, 3, n)]

    def said(right):
        other = [None, *labels]
        return [g if random.random() < right else other[random.integers(0, 4)] for g in gold]

    return labels, gold, said(right_a), said(right_b)


def test_macro_f1_bootstrap_equals_resampling_with_scikit_learn():
    labels, gold, a, b = _answers(3)
    random = np.random.default_rng(7)
    difference = []
    for _ in range(600):
        i = random.integers(0, len(gold), len(gold))
        scores = [
            f1_score([gold[k] for k in i], [side[k] or "?" for k in i], labels=labels, average="macro", zero_division=0)
            for side in (a, b)
        ]
        difference.append(scores[1] - scores[0])
    expected = np.quantile(difference, [0.025, 0.975])
    assert st.paired_bootstrap_macro_f1(gold, a, b, labels, 4000, 0) == pytest.approx(tuple(expected), abs=0.03)


def test_macro_f1_bootstrap_ignores_order_and_repeats_itself():
    labels, gold, a, b = _answers(4)
    first = st.paired_bootstrap_macro_f1(gold, a, b, labels, 500, 5)
    turned = st.paired_bootstrap_macro_f1(gold[::-1], a[::-1], b[::-1], labels, 500, 5)
    assert first == turned == st.paired_bootstrap_macro_f1(gold, a, b, labels, 500, 5)
    assert first[0] > 0
    backwards = st.paired_bootstrap_macro_f1(gold, b, a, labels, 500, 5)
    assert backwards == pytest.approx((-first[1], -first[0]), abs=0.03)


def test_macro_f1_bootstrap_of_equal_models_is_zero():
    labels, gold, a, _ = _answers(5)
    assert st.paired_bootstrap_macro_f1(gold, a, a, labels, 200, 0) == (0.0, 0.0)


def test_macro_f1_bootstrap_refuses_what_does_not_pair():
    with pytest.raises(ValueError, match="same number"):
        st.paired_bootstrap_macro_f1(["x"], ["x"], [], ["x"], 10, 0)
    with pytest.raises(ValueError, match="outside the label set: y"):
        st.paired_bootstrap_macro_f1(["y"], ["x"], ["x"], ["x"], 10, 0)


def test_paired_bootstrap_mean_is_close_to_the_t_interval():
    random = np.random.default_rng(2)
    a = random.normal(0, 1, 200)
    b = a + random.normal(0.2, 0.5, 200)
    expected = stats.t.interval(0.95, 199, (b - a).mean(), stats.sem(b - a))
    assert st.paired_bootstrap_mean(list(a), list(b)) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, math.nan], [1.0, 1.0])])
def test_paired_bootstrap_mean_refuses(a, b):
    with pytest.raises(ValueError, match=r"two pairs|finite"):
        st.paired_bootstrap_mean(a, b)


def test_holm_worked_example():
    assert st.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert st.holm([0.6, 0.9]) == [1.0, 1.0]
    assert st.holm([]) == []


@pytest.mark.parametrize(
    ("n", "discordant", "gain"),
    [(312, 0.10, 0.05), (626, 0.20, 0.05), (155, 0.20, 0.10), (1960, 0.10, 0.02), (103, 0.30, 0.15)],
)
def test_smallest_detectable_gain_inverts_the_sample_size_formula(n, discordant, gain):
    assert st.smallest_detectable_gain(n, discordant) <= gain < st.smallest_detectable_gain(n - 1, discordant)


def test_smallest_detectable_gain_is_found_with_the_promised_power():
    n, discordant = 400, 0.15
    gain = st.smallest_detectable_gain(n, discordant)
    draws = np.random.default_rng(0).multinomial(
        n, [(discordant + gain) / 2, (discordant - gain) / 2, 1 - discordant], size=2000
    )
    found = np.mean([abs(c - b) / math.sqrt(c + b) > 1.96 for c, b, _ in draws if c + b])
    assert found == pytest.approx(0.8, abs=0.04)


def test_no_gain_is_detectable_with_too_few_disagreements():
    assert st.smallest_detectable_gain(10, 0.05) is None
    assert st.smallest_detectable_gain(100, 0.0) is None
    assert st.smallest_detectable_gain(0, 0.3) is None


@pytest.mark.parametrize(("n", "k", "expected"), [(100, 3, 3.3), (100, 20, 7.2), (200, 5, 3.2), (500, 10, 2.7)])
def test_selection_optimism(n, k, expected):
    assert round(100 * st.selection_optimism(n, 0.8, k), 1) == expected


def test_selection_optimism_equals_simulation_and_needs_a_choice():
    best = np.random.default_rng(0).binomial(60, 0.7, size=(20000, 4)).max(axis=1).mean() / 60
    assert st.selection_optimism(60, 0.7, 4) == pytest.approx(best - 0.7, abs=0.002)
    assert st.selection_optimism(60, 0.7, 1) == 0.0
    assert st.selection_optimism(60, 1.0, 9) == 0.0
