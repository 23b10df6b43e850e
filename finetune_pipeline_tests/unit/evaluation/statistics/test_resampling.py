"""F1 and continuous scores against scikit-learn and scipy."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from finetune_pipeline.evaluation.metrics.micro_f1 import _contributions
from finetune_pipeline.evaluation.statistics.proportions import cluster_sign_flip, wilson_interval
from finetune_pipeline.evaluation.statistics.resampling import paired_bootstrap_f1, paired_bootstrap_mean


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
    how = {"labels": labels, "average": "macro", "zero_division": 0}
    for _ in range(150):
        i = random.integers(0, len(gold), len(gold))
        before, after = (f1_score([gold[k] for k in i], [side[k] or "?" for k in i], **how) for side in (a, b))
        difference.append(after - before)
    expected = np.quantile(difference, [0.025, 0.975])
    assert paired_bootstrap_f1(gold, a, b, labels) == pytest.approx(tuple(expected), abs=0.035)


def test_macro_f1_bootstrap_ignores_order_and_repeats_itself():
    labels, gold, a, b = _answers(4)
    first = paired_bootstrap_f1(gold, a, b, labels)
    assert first == paired_bootstrap_f1(gold[::-1], a[::-1], b[::-1], labels) and first[0] > 0
    assert paired_bootstrap_f1(gold, b, a, labels) == pytest.approx((-first[1], -first[0]), abs=0.03)
    far = paired_bootstrap_f1(gold, a, b, labels, confidence=0.9999)  # there the normal interval counts too
    assert far[0] < first[0] - 0.7 * (first[1] - first[0]) / 2  # 3.9 standard errors instead of 2


def _judged(random, shares, recalls, n):
    """Gold answers of labels with these shares, and the answers of models that have a row of each label right at these rates; half
    of the errors are another label."""
    labels = [str(i) for i in range(len(shares))]
    gold = random.choice(len(shares), n, p=shares)

    def answer(g, recall):
        if random.random() < recall[g]:
            return labels[g]
        return random.choice([x for x in labels if x != labels[g]]) if random.random() < 0.5 else None

    return labels, [labels[g] for g in gold], *([answer(g, recall) for g in gold] for recall in recalls)


@pytest.mark.parametrize("rows", [100, 300])
def test_a_rare_label_makes_no_false_winner(rows):
    """Two models of equal macro-F1 (0.633): one is better on the two frequent labels, the other on a label of 2%, of which 13 of
    100 tests of 100 rows hold none. By a percentile interval over the labels that occur, the first wins in one of ten."""
    random, wins, runs = np.random.default_rng(2), 0, 300
    for _ in range(runs):
        labels, *answered = _judged(random, [0.49, 0.49, 0.02], [[0.7, 0.7, 0.9], [0.8365, 0.8365, 0.2]], rows)
        wins += paired_bootstrap_f1(*answered, labels)[0] > 0
    assert wins <= 16, "2.5% is 7.5 of 300"


def test_a_gain_in_macro_f1_is_still_found():
    """As often as by a percentile interval (62% and 98%), where no label has a handful of rows."""
    random = np.random.default_rng(3)
    for shares, before, after, rows, least in (
        ([1 / 3] * 3, 0.7, 0.85, 100, 0.5),
        ([0.475, 0.475, 0.05], 0.6, 0.85, 200, 0.9),
    ):
        found = 0
        for _ in range(100):
            labels, *answered = _judged(random, shares, [[before] * 3, [after] * 3], rows)
            found += paired_bootstrap_f1(*answered, labels)[0] > 0
        assert found / 100 >= least


def test_what_a_missing_label_would_show_is_open():
    gold = ["x", "y"] * 50
    wrong = ["y", "x"] * 50
    low, high = paired_bootstrap_f1(gold, wrong, gold, ["x", "y"])
    assert 0.9 < low < 1.0 <= high
    assert paired_bootstrap_f1(gold, wrong, gold, ["x", "y", "z"])[0] < 0.4, "z may be lost"
    assert paired_bootstrap_f1(gold, None, gold, ["x", "y", "z"])[0] < 0.7


def test_f1_of_clusters_is_wider_where_rows_repeat():
    labels, gold, a, b = _answers(13)
    repeated = [[x for x in side for _ in range(4)] for side in (gold, a, b)]
    source = [i for i in range(len(gold)) for _ in range(4)]
    as_rows = paired_bootstrap_f1(*repeated, labels)
    as_clusters = paired_bootstrap_f1(*repeated, labels, clusters=source)
    once = paired_bootstrap_f1(gold, a, b, labels)
    assert as_clusters == pytest.approx(once, abs=0.015)
    assert as_clusters[1] - as_clusters[0] > 1.8 * (as_rows[1] - as_rows[0])


def test_mean_is_a_bootstrap_t_whose_tails_are_students():
    b, half_width = np.random.default_rng(0).beta(0.5, 4.0, 60), stats.t.ppf(0.975, 59) * np.sqrt(60 / 59)
    error = b.std() / np.sqrt(60)

    def t(x, axis):
        return (x.mean(axis) - b.mean()) / (x.std(axis) / np.sqrt(60))

    level = 1 - 2 * stats.norm.sf(half_width)
    how = {"method": "percentile", "confidence_level": level, "n_resamples": 9999, "random_state": 0}
    _, above = stats.bootstrap((b,), t, **how).confidence_interval
    low, high = paired_bootstrap_mean([0.0] * 60, list(b))
    assert high == pytest.approx(b.mean() - stats.bootstrap((b,), t, **how).confidence_interval.low * error, abs=0.006)
    assert low == pytest.approx(b.mean() - max(above, half_width) * error, abs=0.003)
    assert paired_bootstrap_mean(list(b), [0.0] * 60) == pytest.approx((-high, -low), abs=1e-12)


def test_clustered_mean_covers_where_rows_depend_on_each_other():
    random, covered, naive = np.random.default_rng(5), [], []
    for _ in range(80):
        common = np.repeat(random.normal(0, 1, 30), 5)
        values = list(common + random.normal(0, 0.3, 150))
        for inside, clusters in ((covered, np.repeat(range(30), 5).tolist()), (naive, None)):
            low, high = paired_bootstrap_mean([0.0] * 150, values, clusters=clusters)
            inside.append(low <= 0 <= high)
    assert np.mean(covered) > 0.88
    assert np.mean(naive) < 0.75


def _normal(random, n):
    return random.normal(0, 0.2, n)


def _few_large_losses(random, n):
    return np.where(random.random(n) < 0.05, -0.95, 0.05)


def _mostly_equal(random, n):
    return np.where(random.random(n) < 0.8, 0.0, random.uniform(-0.5, 0.5, n))


@pytest.mark.parametrize(
    ("sources", "rows", "draw"),
    [
        *((sources, 10, _normal) for sources in (2, 3, 5)),
        *((sources, 10, draw) for sources in (10, 20) for draw in (_few_large_losses, _mostly_equal)),
        (20, 1, _mostly_equal),
        (50, 4, _few_large_losses),
        ("one of 60", 3, _few_large_losses),
    ],
)
def test_a_gain_of_zero_is_shown_no_more_often_than_said(sources, rows, draw):
    """At 2.5%, 16 or more of 300 have a probability of 0.5%. With BCa they were up to 70."""
    sizes = [60] + [3] * 20 if sources == "one of 60" else [rows] * sources
    random, codes = np.random.default_rng(11), np.repeat(range(len(sizes)), sizes)
    gains_shown = 0
    for _ in range(300):
        alike = random.random(len(codes)) < 0.5
        values = np.where(alike, draw(random, len(sizes))[codes], draw(random, len(codes)))
        low, _ = paired_bootstrap_mean([0.0] * len(values), values.tolist(), clusters=codes.tolist())
        gains_shown += low > 0
    assert gains_shown <= 16


def test_a_micro_f1_gain_of_zero_is_shown_no_more_often_than_said():
    """Twenty documents of ten rows, of which few lose most of their values. Percentiles of resamples showed 29 gains."""
    random, codes, gains_shown = np.random.default_rng(5), np.repeat(range(20), 10), 0
    for _ in range(300):
        expected = random.integers(4, 12, 200)
        lost = np.where(random.random(200) < 0.5, (random.random(20) < 0.06)[codes], random.random(200) < 0.06)
        right = np.where(lost, 0.0167, 0.85)
        before, after = (
            _contributions(np.stack([random.binomial(expected, share), expected, expected], axis=1).astype(float))
            for share in (0.8, right)
        )
        gains_shown += paired_bootstrap_mean(before, after, clusters=codes.tolist())[0] > 0
    assert gains_shown <= 16


def test_one_source_shows_nothing_and_sources_all_alike_little():
    labels = ["x", "y"]
    gold, answers = labels * 10, ["y"] * 20
    assert paired_bootstrap_mean([0.0] * 20, [0.3] * 20, clusters=["document"] * 20) is None
    assert paired_bootstrap_f1(gold, answers, gold, labels, clusters=["document"] * 20) is None
    two = ["a"] * 10 + ["b"] * 10
    assert paired_bootstrap_mean([0.0] * 20, [0.3] * 20, clusters=two)[0] < 0
    assert paired_bootstrap_f1(gold, [None] * 20, gold, labels, clusters=two)[0] < 0
    low, high = paired_bootstrap_mean([0.0] * 200, [1.0] * 199 + [0.0], least=0.0)
    assert (low, high) == pytest.approx(wilson_interval(199, 200, freedom=199)), "no wider than right or wrong answers"
    low, high = paired_bootstrap_mean([0.0] * 200, [1.0] * 200)
    assert 0.95 < low < high == 1.0
    low, high = paired_bootstrap_mean([0.2] * 20, [0.2] * 20)
    assert -0.2 < low == -high < -0.1, "twenty equal answers do not rule out a loss of two points"
    low, _ = paired_bootstrap_mean([0.5] * 20, [0.55] * 20)
    assert low < 0, "a rare large loss is often not among twenty rows"


def test_permutation_equals_scipy():
    random = np.random.default_rng(1)
    a, b = random.normal(0, 1, 10), random.normal(0.6, 1, 10)
    how = {"permutation_type": "samples", "n_resamples": np.inf}
    expected = stats.permutation_test((a, b), lambda x, y: np.mean(y - x), **how).pvalue
    assert cluster_sign_flip(list(b - a), range(10)) == pytest.approx(expected, abs=1e-12)
    assert cluster_sign_flip([0.0, 0.0], range(2)) == 1.0, "equal models show nothing"
    assert cluster_sign_flip([1.0] * 49 + [2.0], range(50)) == pytest.approx(1 / 10_001), "never zero"
    with pytest.raises(ValueError, match="at least one"):
        cluster_sign_flip([], [])
    with pytest.raises(ValueError, match="finite"):
        cluster_sign_flip([np.nan, 1.0], range(2))  # p would be 0
