"""Bootstrap intervals: of macro-F1 from confusion counts, of means, and of the agreement of raters (Cohen's kappa)."""

import math
from collections.abc import Hashable, Sequence

import numpy as np
import scipy

from finetune_pipeline.evaluation.statistics.proportions import (
    BLOCK,
    Interval,
    Units,
    cluster_codes,
    effective_sources,
    wilson_interval,
    z_value,
)

RESAMPLES, SEED = 2000, 0


def paired_bootstrap_f1(
    gold: Sequence[str],
    a: Sequence[str | None] | None,
    b: Sequence[str | None],
    labels: Sequence[str],
    confidence: float = 0.95,
    clusters: Units | None = None,
) -> Interval | None:
    """Interval of macro-F1 of `b` minus macro-F1 of `a`, or of macro-F1 of `b` if `a` is None. None for fewer than two examples, or
    clusters.

    Resamples examples with both answers, or whole clusters of them, as counts of the distinct (gold, a, b) triples, so that the
    order of the examples does not count. An answer of None is outside the label set. Raises ValueError on unequal lengths or no
    examples.

    Macro-F1 is the plain mean over the labels that occur in `gold`. The interval is about all `labels`, though: what a few
    examples of a label show, or none, is no measurement of it. So each resample adds an example to every label, which only one
    of the two models, drawn at random, has right; this widens the draws, and does not move their mean. Without it, and even more
    if stratified by label, a rare label makes too many false winners (benchmarks/gate_simulation.py).
    """
    first = [None] * len(b) if a is None else a
    if not len(gold) == len(first) == len(b) or not gold or (clusters is not None and len(clusters) != len(gold)):
        raise ValueError(f"need the same number of gold, a and b, at least one: {len(gold)}, {len(first)}, {len(b)}")
    index = {label: i for i, label in enumerate(labels)}
    if unknown := sorted(set(gold) - set(index)):
        raise ValueError(f"gold answers outside the label set: {', '.join(unknown)}")
    units = float(len(gold)) if clusters is None else effective_sources(clusters)
    if units == 1:
        return None
    triples = np.array([[index.get(x or "", -1) for x in triple] for triple in zip(gold, first, b, strict=True)])
    distinct, triple_of_row, counts = np.unique(triples, axis=0, return_inverse=True, return_counts=True)
    classes = np.arange(len(index))
    is_gold = distinct[:, :1] == classes

    def f1(column: int, weights: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
        """F1 of each label, with so many added examples that are right or wrong."""
        is_answer = distinct[:, column : column + 1] == classes
        matches, totals = weights @ (is_gold & is_answer) + right, weights @ is_gold + weights @ is_answer
        totals = totals + 2 * right + wrong
        return np.asarray(np.divide(2.0 * matches, totals, out=np.zeros(matches.shape), where=totals > 0))

    none, observed = np.zeros((1, len(index))), counts[None, :].astype(float)
    gains = (f1(2, observed, none, none) - f1(1, observed, none, none))[0]
    draws = _resampled_counts(triple_of_row.reshape(-1), len(counts), clusters)
    added = np.random.default_rng(SEED + 1).integers(0, 2, (RESAMPLES, len(index))) * (len(gold) / units)
    other = len(gold) / units - added
    drawn = f1(2, draws, added, other) - (f1(1, draws, other, added) if a is not None else 0.0)
    drawn = drawn.mean(axis=1)
    measured = np.unique(triples[:, 0])
    estimate, open_labels = float(gains[measured].mean()), len(index) - len(measured)
    unknown_mean = 0.0 if a is not None else 0.5
    centre = float((gains[measured].sum() + unknown_mean * open_labels) / len(index))
    low, high = draws_interval(drawn - drawn.mean() + centre, centre, confidence, units)
    return min(low, estimate), max(high, estimate)


def _resampled_counts(cell_of_row: np.ndarray, cells: int, clusters: Units | None) -> np.ndarray:
    """How often every cell (such as a pair of answers) is drawn, one row per resample of rows, or of whole clusters of them."""
    random, n = np.random.default_rng(SEED), len(cell_of_row)
    if clusters is None:
        return random.multinomial(n, np.bincount(cell_of_row, minlength=cells) / n, size=RESAMPLES).astype(float)
    from scipy import sparse  # needed only for clustered rows

    codes = cluster_codes(clusters)
    groups = int(codes.max()) + 1
    members = sparse.csr_matrix((np.ones(n), (codes, cell_of_row)), shape=(groups, cells))
    drawn = random.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    return np.asarray((members.T @ drawn.T.astype(float)).T)


def paired_bootstrap_mean(
    a: Sequence[float],
    b: Sequence[float],
    confidence: float = 0.95,
    clusters: Units | None = None,
    least: float = -1.0,
) -> Interval | None:
    """Interval of the mean of `b - a` over paired examples: the bootstrap-t (Efron and Tibshirani 1993, 12.5), which follows skewed
    scores, or Student's t on the side where that reaches further.

    With clusters, whole clusters are resampled. least: the smallest possible difference; 0 for a mean of scores. None for fewer
    than two pairs or clusters. Raises ValueError on unequal lengths, no pairs, or a value that is not finite.
    """
    if len(a) != len(b) or not len(a) or (clusters is not None and len(clusters) != len(a)):
        raise ValueError(f"need at least one pair, and as many of either side: {len(a)}, {len(b)}")
    difference = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    if not np.isfinite(difference).all():
        raise ValueError("scores must be finite numbers")
    codes = np.arange(len(difference)) if clusters is None else cluster_codes(clusters)
    sums, sizes = np.bincount(codes, weights=difference), np.bincount(codes).astype(float)
    if len(sums) < 2:
        return None
    estimate, units = float(difference.mean()), effective_sources(codes.tolist())
    residuals = sums - estimate * sizes
    if np.abs(residuals).max() <= 1e-12 * max(1.0, float(np.abs(sums).max())):
        return _constant_interval(estimate, confidence, units)
    moments = np.stack([sizes, residuals, residuals**2, residuals * sizes, sizes**2], axis=1)
    random, t, block = np.random.default_rng(SEED), np.empty(RESAMPLES), max(1, BLOCK // len(sums))
    for begin in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - begin)
        drawn = random.integers(0, len(sums), (size, len(sums))) + len(sums) * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)  # faster than a multinomial
        rows, shift, squares, products, squared_sizes = (counts @ moments).T
        shift = shift / rows  # of the mean
        variance = squares - 2 * shift * products + shift**2 * squared_sizes  # of the sum, linearised
        # a resample of equal units says nothing of the variance: its mean is off by more than any number of errors
        spread = np.sqrt(np.where(variance > 1e-12 * moments[:, 2].sum(), variance, 0.0)) / rows
        with np.errstate(divide="ignore", invalid="ignore"):
            t[begin : begin + size] = np.where(np.abs(shift) > 1e-12, shift / spread, 0.0)
    half_width, error = _half_width(confidence, units), math.sqrt(moments[:, 2].sum()) / sizes.sum()
    below, above = np.quantile(t, scipy.special.ndtr([-half_width, half_width]), method="nearest")
    # no wider than the interval of as many values that are all least or most, the widest there are
    least, most = min(least, float(difference.min())), max(1.0, float(difference.max()))
    share = min(1.0, (estimate - least) / (most - least))
    widest = least + (most - least) * np.array(wilson_interval(share * units, units, confidence, max(1.0, units - 1)))
    low, high = estimate - max(above, half_width) * error, estimate - min(below, -half_width) * error
    return float(max(widest[0], low)), float(min(widest[1], high))


def _half_width(confidence: float, units: float) -> float:
    """Half the width of an interval in standard deviations of bootstrap draws: Student's t, because draws of few units vary less
    than the estimate does (Hesterberg 2015, The American Statistician 69)."""
    freedom = max(1.0, units - 1)
    return z_value(confidence, freedom) * math.sqrt(1 + 1 / freedom)


def draws_interval(draws: np.ndarray, estimate: float, confidence: float, units: float) -> Interval:
    """Percentile interval of bootstrap draws, as wide as :func:`_half_width` asks, or Student's t on the side where that reaches
    further: percentiles of few units, or far out, depend on few draws.

    Args:
        units: How many rows or clusters were drawn from (effective_sources), more than one.
    """
    spread = float(draws.std(ddof=1))
    if spread <= 1e-12:
        return _constant_interval(estimate, confidence, units)
    half_width = _half_width(confidence, units)
    low, high = np.quantile(draws, scipy.special.ndtr([-half_width, half_width]))
    return float(min(low, estimate - half_width * spread)), float(max(high, estimate + half_width * spread))


def _constant_interval(estimate: float, confidence: float, units: float) -> Interval:
    """Interval if all units are equal. At least the share of units in Wilson's lower bound is like these; the others may have any
    gain from -1 to 1, because scores are between 0 and 1."""
    equal_share, _ = wilson_interval(units, units, confidence, max(1.0, units - 1))
    return equal_share * estimate - (1 - equal_share), equal_share * estimate + (1 - equal_share)


def cohens_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float | None:
    """Agreement of two raters beyond chance (Cohen 1960): 1 is perfect, 0 what chance would give.

    None if both raters always give the same single answer. Raises ValueError without ratings, or if their numbers differ.
    """
    pair_of_item, pairs = _pairs_of_ratings(a, b)
    value = float(_kappa(np.bincount(pair_of_item).astype(float), pairs))
    return None if np.isnan(value) else value


def kappa_interval(a: Sequence[Hashable], b: Sequence[Hashable], clusters: Units | None = None) -> Interval | None:
    """Bootstrap interval (95%) of :func:`cohens_kappa` over items, or over sources (`clusters`). Leaves out resamples in which
    kappa is undefined. None if these are more than half, if kappa itself is undefined, or for a single source."""
    kappa, (pair_of_item, pairs) = cohens_kappa(a, b), _pairs_of_ratings(a, b)
    units = effective_sources(range(len(a)) if clusters is None else clusters)
    if kappa is None or units == 1:
        return None
    values = _kappa(_resampled_counts(pair_of_item, len(pairs), clusters), pairs)
    values = values[~np.isnan(values)]
    if len(values) < RESAMPLES / 2:
        return None
    low, high = draws_interval(values, kappa, 0.95, units)
    return max(low, -1.0), min(high, 1.0)


def _pairs_of_ratings(a: Sequence[Hashable], b: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """The number of every item's pair of ratings, and the distinct pairs, two columns of numbers of answers."""
    if len(a) != len(b) or not len(a):
        raise ValueError(f"need as many ratings by either rater, at least one: {len(a)}, {len(b)}")
    ratings = cluster_codes((*a, *b)).reshape(2, -1).T
    pairs, pair_of_item = np.unique(ratings, axis=0, return_inverse=True)
    return pair_of_item.reshape(-1), pairs


def _kappa(counts: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Kappa of counts by pair (last axis); NaN where both raters always give the same single answer."""
    n = counts.sum(axis=-1)
    observed = counts @ (pairs[:, 0] == pairs[:, 1]) / n
    first, second = (counts @ (column[:, None] == np.arange(pairs.max() + 1)) for column in pairs.T)
    chance = (first * second).sum(axis=-1) / n**2
    undefined = np.full(n.shape, np.nan)
    return np.asarray(np.divide(observed - chance, 1 - chance, out=undefined, where=chance < 1 - 1e-12))
