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
FAR_TAIL = 0.99
"""Above this confidence, bootstrap percentiles depend on few draws (or few units). The interval then also covers Student's t
interval of the same draws."""


def paired_bootstrap_f1(
    gold: Sequence[str],
    a: Sequence[str | None],
    b: Sequence[str | None],
    labels: Sequence[str],
    confidence: float = 0.95,
    clusters: Sequence[Hashable] | None = None,
) -> Interval | None:
    """Percentile interval of macro-F1 of `b` minus macro-F1 of `a`; None for fewer than two examples, or clusters.

    Resamples examples with both answers, or whole clusters of them, as counts of the distinct (gold, a, b) triples, so that the
    order of the examples does not count. Macro-F1 is the plain mean over the labels that occur in `gold`. An answer of None is
    outside the label set. Raises ValueError on unequal lengths or no examples.
    """
    if not len(gold) == len(a) == len(b) or not gold or (clusters is not None and len(clusters) != len(gold)):
        raise ValueError(f"need the same number of gold, a and b, at least one: {len(gold)}, {len(a)}, {len(b)}")
    present = set(gold)
    index = {label: i for i, label in enumerate(label for label in labels if label in present)}
    if unknown := sorted(present - set(index)):
        raise ValueError(f"gold answers outside the label set: {', '.join(unknown)}")
    units = float(len(gold)) if clusters is None else effective_sources(clusters)
    if units == 1:
        return None
    triples = np.array([[index.get(x or "", -1) for x in triple] for triple in zip(gold, a, b, strict=True)])
    distinct, triple_of_row, counts = np.unique(triples, axis=0, return_inverse=True, return_counts=True)
    draws = _resampled_counts(triple_of_row.reshape(-1), counts, clusters)
    classes = np.arange(len(index))
    is_gold = distinct[:, :1] == classes

    def f1(column: int, weights: np.ndarray) -> np.ndarray:
        is_answer = distinct[:, column : column + 1] == classes
        matches, totals = weights @ (is_gold & is_answer), weights @ is_gold + weights @ is_answer
        scores = np.divide(2.0 * matches, totals, out=np.zeros(matches.shape), where=totals > 0)
        return np.asarray(scores.mean(axis=1))

    observed = counts[None, :].astype(float)
    estimate = float((f1(2, observed) - f1(1, observed))[0])
    return draws_interval(f1(2, draws) - f1(1, draws), estimate, confidence, units)


def _resampled_counts(triple_of_row: np.ndarray, counts: np.ndarray, clusters: Sequence[Hashable] | None) -> np.ndarray:
    """How often every distinct triple is drawn, one row per resample."""
    random, n = np.random.default_rng(SEED), len(triple_of_row)
    if clusters is None:
        return random.multinomial(n, counts / n, size=RESAMPLES).astype(float)
    from scipy import sparse  # needed only for clustered rows

    codes = cluster_codes(clusters)
    groups = int(codes.max()) + 1
    members = sparse.csr_matrix((np.ones(n), (codes, triple_of_row)), shape=(groups, len(counts)))
    drawn = random.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    return np.asarray((members.T @ drawn.T.astype(float)).T)


def paired_bootstrap_mean(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95, clusters: Sequence[Hashable] | None = None
) -> Interval | None:
    """Interval of the mean of `b - a` over paired examples, corrected for bias and skewness (BCa, Efron 1987).

    With clusters, whole clusters are resampled. None for fewer than two pairs or clusters. Raises ValueError on unequal
    lengths, no pairs, or a value that is not finite.
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
    influence = sums - estimate * sizes
    if np.abs(influence).max() <= 1e-12 * max(1.0, float(np.abs(sums).max())):
        return _constant_interval(estimate, confidence, units)
    random, means, block = np.random.default_rng(SEED), np.empty(RESAMPLES), max(1, BLOCK // len(sums))
    for begin in range(0, RESAMPLES, block):
        drawn = random.integers(0, len(sums), (min(block, RESAMPLES - begin), len(sums)), dtype=np.int32)
        means[begin : begin + len(drawn)] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    # acceleration from the jackknife, which for a mean is a function of the third moment
    acceleration = float((influence**3).sum() / (6 * (influence**2).sum() ** 1.5))
    return draws_interval(means, estimate, confidence, units, acceleration)


def draws_interval(
    draws: np.ndarray, estimate: float, confidence: float, units: float, acceleration: float | None = None
) -> Interval:
    """Percentile interval of bootstrap draws, adjusted by BCa if an acceleration is given; beyond FAR_TAIL also Student's t.

    The percentiles are those of Student's t (Hesterberg 2015, The American Statistician 69), because draws of few units vary
    less than the estimate does.

    Args:
        units: How many rows or clusters were drawn from (effective_sources), more than one.
    """
    spread = float(draws.std(ddof=1))
    if spread <= 1e-12:
        return _constant_interval(estimate, confidence, units)
    freedom = max(1.0, units - 1)
    half_width = z_value(confidence, freedom) * math.sqrt(1 + 1 / freedom)  # in standard deviations of the draws
    quantiles = np.array([-half_width, half_width])
    if acceleration is not None:
        below = (float((draws < estimate).sum()) + 0.5 * float((draws == estimate).sum())) / len(draws)
        bias = scipy.special.ndtri(min(max(below, 0.5 / len(draws)), 1 - 0.5 / len(draws)))
        shifted = bias + quantiles
        quantiles = bias + shifted / np.maximum(1 - acceleration * shifted, 1e-3)
    low, high = (float(bound) for bound in np.quantile(draws, scipy.special.ndtr(quantiles)))
    if half_width > z_value(FAR_TAIL):
        low, high = min(low, estimate - half_width * spread), max(high, estimate + half_width * spread)
    return low, high


def _constant_interval(estimate: float, confidence: float, units: float) -> Interval:
    """Interval if all units are equal. At least the share of units in Wilson's lower bound is like these; the others may have any
    gain from -1 to 1, because scores are between 0 and 1."""
    equal_share, _ = wilson_interval(units, units, confidence, max(1.0, units - 1))
    return equal_share * estimate - (1 - equal_share), equal_share * estimate + (1 - equal_share)


def cohens_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float | None:
    """Agreement of two raters beyond chance (Cohen 1960): 1 is perfect, 0 what chance would give.

    None if both raters always give the same single answer. Raises ValueError without ratings, or if their numbers differ.
    """
    value = float(_kappa(_tables(a, b).sum(axis=0)[None])[0])
    return None if np.isnan(value) else value


def kappa_interval(a: Sequence[Hashable], b: Sequence[Hashable], clusters: Units | None = None) -> Interval | None:
    """Bootstrap interval (95%) of :func:`cohens_kappa` over items, or over sources (`clusters`). Leaves out resamples in which
    kappa is undefined. None if these are more than half, if kappa itself is undefined, or for a single source."""
    kappa, tables = cohens_kappa(a, b), _tables(a, b, clusters)
    units = len(tables)
    if kappa is None or units < 2:
        return None
    drawn = np.random.default_rng(SEED).multinomial(units, np.full(units, 1 / units), size=RESAMPLES)
    values = _kappa(np.tensordot(drawn.astype(float), tables, 1))
    values = values[~np.isnan(values)]
    return draws_interval(values, kappa, 0.95, units) if len(values) >= RESAMPLES / 2 else None


def _tables(a: Sequence[Hashable], b: Sequence[Hashable], clusters: Units | None = None) -> np.ndarray:
    """Counts of every pair of ratings, one table per source (or item)."""
    if len(a) != len(b) or not len(a):
        raise ValueError(f"need as many ratings by either rater, at least one: {len(a)}, {len(b)}")
    codes = cluster_codes(range(len(a)) if clusters is None else clusters)
    ratings = cluster_codes((*a, *b))
    answers = int(ratings.max()) + 1
    tables = np.zeros((int(codes.max()) + 1, answers, answers))
    np.add.at(tables, (codes, ratings[: len(a)], ratings[len(a) :]), 1)
    return tables


def _kappa(tables: np.ndarray) -> np.ndarray:
    """Kappa of tables in the last two axes; NaN where both raters always give the same single answer."""
    n = tables.sum(axis=(-2, -1))
    observed = np.trace(tables, axis1=-2, axis2=-1) / n
    chance = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1) / n**2
    undefined = np.full(n.shape, np.nan)
    return np.asarray(np.divide(observed - chance, 1 - chance, out=undefined, where=chance < 1 - 1e-12))
