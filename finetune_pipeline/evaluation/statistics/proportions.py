"""Intervals and tests of proportions: single, paired, and of rows that share a source."""

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist

import numpy as np
import scipy

from finetune_pipeline.engine.facts import Facts

Interval = tuple[float, float]
Values = Sequence[float]
Units = Sequence[Hashable]
"""The unit of each value: its source, or itself."""
BLOCK = 4_000_000
"""Random numbers drawn at once, to bound the memory."""
EXACT_CLUSTERS = 13
"""Up to this many clusters, a sign-flip test counts all patterns of signs."""
DRAWN_FLIPS = 10_000
"""Patterns of signs that it draws with more clusters."""


def z_value(confidence: float, freedom: float | None = None) -> float:
    """Quantile of a two-sided `confidence` (0.95 gives 1.96): of the normal distribution, or of Student's t with degrees of
    freedom. Raises ValueError outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    tail = (1 - confidence) / 2  # the lower tail stays precise near confidence 1
    return -NormalDist().inv_cdf(tail) if freedom is None else float(-scipy.special.stdtrit(freedom, tail))


def wilson_interval(k: float, n: float, confidence: float = 0.95, freedom: float | None = None) -> Interval:
    """Score interval of a share, k of n (Wilson 1927); both may be effective numbers of rows. n = 0 gives (0, 1).

    freedom: as in :func:`z_value`. Raises ValueError unless 0 <= k <= n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is not a share")
    if n == 0:
        return 0.0, 1.0
    z = z_value(confidence, freedom)
    z2 = z * z
    centre = (k + z2 / 2) / (n + z2)
    half = z / (n + z2) * math.sqrt(k * (n - k) / n + z2 / 4)
    return (0.0 if k == 0 else max(0.0, centre - half)), (1.0 if k == n else min(1.0, centre + half))


def tango_statistic(b: float, c: float, n: float, gain: float) -> float:
    """Score statistic of the hypothesis that the true gain of the second model over the first is `gain` (Tango 1998).

    b: pairs only the first gets right; c: pairs only the second gets right; n: all pairs, which may be effective numbers. About
    standard normal under the hypothesis; at gain 0 it is (c - b) / sqrt(b + c), McNemar's.
    """
    linear = -b - c + (2 * n - c + b) * gain
    constant = -b * gain * (1 - gain)
    root = (math.sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * root + gain * (1 - gain))
    excess = c - b - n * gain
    if variance <= 0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


def tango_interval(b: float, c: float, n: float, confidence: float = 0.95, freedom: float | None = None) -> Interval:
    """Score interval of the gain (c - b) / n, the difference of two paired proportions (Tango 1998).

    Keeps its coverage even if the models rarely disagree, unlike Wald and bootstrap. freedom: as in :func:`z_value`.
    Raises ValueError unless b, c >= 0 and b + c <= n, n > 0.
    """
    if min(b, c) < 0 or b + c > n * (1 + 1e-12) or n <= 0:
        raise ValueError(f"b={b}, c={c} are not discordant counts of n={n} pairs")
    z, estimate = z_value(confidence, freedom), (c - b) / n
    low = crossing(lambda gain: tango_statistic(b, c, n, gain) - z, -1.0, estimate)
    high = crossing(lambda gain: tango_statistic(b, c, n, gain) + z, estimate, 1.0)
    return low, high


def crossing(falling: Callable[[float], float], low: float, high: float) -> float:
    """Find where a falling function crosses zero between low and high, by bisection; without a crossing, the nearer end."""
    if falling(low) <= 0:
        return low
    if falling(high) >= 0:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided p of the exact McNemar test: a binomial test of b against c discordant pairs. No such pair gives 1."""
    return min(1.0, 2 * float(scipy.special.bdtr(min(b, c), b + c, 0.5))) if b + c else 1.0


def cluster_codes(clusters: Units) -> np.ndarray:
    """The number of each value's cluster, from 0 in the order of appearance."""
    codes: dict[Hashable, int] = {}
    return np.fromiter((codes.setdefault(name, len(codes)) for name in clusters), dtype=np.int64, count=len(clusters))


def _checked(values: Values, clusters: Units) -> tuple[np.ndarray, np.ndarray]:
    if len(values) != len(clusters) or not len(values):
        raise ValueError(f"need one cluster a value, and at least one: {len(values)} values, {len(clusters)} clusters")
    x = np.asarray(values, dtype=float)
    if not np.isfinite(x).all():  # a comparison with NaN is false, so p would be 0
        raise ValueError("values must be finite numbers")
    return x, cluster_codes(clusters)


def design_effect(values: Values, clusters: Units, centre: float | None = None) -> float:
    """Variance of the mean with clusters over the variance without them; 1 or more.

    The clustered variance is the sum of squares of the clusters' summed residuals (linearisation), with the factor G / (G - 1)
    for G clusters. If all residuals are 0, or there is one cluster, the result is the largest possible effect: that of clusters
    of identical rows, sum of squared sizes / n.

    centre: residuals are differences from it; by default the mean.
    """
    x, codes = _checked(values, clusters)
    sizes = np.bincount(codes)
    groups, n = len(sizes), len(x)
    if groups == n:
        return 1.0
    residuals = x - (x.mean() if centre is None else centre)
    spread = float((residuals**2).sum())
    if spread == 0 or groups == 1:
        return float((sizes**2).sum() / n)
    totals = np.bincount(codes, weights=residuals)
    clustered = float((totals**2).sum()) * groups / (groups - 1)
    return max(1.0, clustered / (spread * n / (n - 1)))


def effective_sources(clusters: Units) -> float:
    """The equivalent number of sources of equal size: n^2 / sum of squared sizes (Kish 1965; Carter et al. 2017)."""
    sizes = np.bincount(cluster_codes(clusters))
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _degrees_of_freedom(clusters: Units) -> float | None:
    """Degrees of freedom of clustered rows, one less than the sources, because few sources determine the variance poorly; None
    for single rows."""
    sources = effective_sources(clusters)
    return None if sources == len(clusters) else max(1.0, sources - 1)


def _share_effect(hits: Values, clusters: Units, confidence: float) -> float:
    """Design effect of a share, around the centre of the interval that as many sources would have.

    A few sources with a few errors say little about how errors cluster: around the mean, bounds would miss up to three times too
    often.
    """
    sources, z2 = effective_sources(clusters), z_value(confidence, _degrees_of_freedom(clusters)) ** 2
    return design_effect(hits, clusters, (float(np.mean(hits)) * sources + z2 / 2) / (sources + z2))


def clustered_share(hits: Values, clusters: Units, confidence: float = 0.95) -> tuple[Interval, float]:
    """Wilson's interval of a share if rows share sources, from effective numbers of rows; and the design effect."""
    x, _ = _checked(hits, clusters)
    effect = _share_effect(hits, clusters, confidence)
    return wilson_interval(float(x.sum()) / effect, len(x) / effect, confidence, _degrees_of_freedom(clusters)), effect


def clustered_tango_interval(before: Values, after: Values, clusters: Units, confidence: float = 0.95) -> Interval:
    """Tango's interval of the paired gain if rows share sources. Counts are divided by the design effect of the differences, or of
    the losses if that is larger: scattered gains may hide that a few sources are lost entirely."""
    first, _ = _checked(before, clusters)
    difference = np.asarray(after, dtype=float) - first
    lost = (difference < 0).astype(float)
    effect = max(design_effect(difference.tolist(), clusters), _share_effect(lost.tolist(), clusters, confidence))
    b, c, n = float(lost.sum()) / effect, float((difference > 0).sum()) / effect, len(first) / effect
    return tango_interval(b, c, n, confidence, _degrees_of_freedom(clusters))


def cluster_sign_flip(differences: Values, clusters: Units) -> float:
    """Two-sided p that the mean paired difference is zero: signs are flipped, for all rows of a cluster at once (Fisher).

    Exact up to EXACT_CLUSTERS clusters, and if all weigh the same (for single rows, McNemar's exact test); else patterns of signs
    are drawn. A drawn p counts the observed pattern too (Phipson and Smyth 2010), so it is never zero.
    """
    x, codes = _checked(differences, clusters)
    totals = np.bincount(codes, weights=x)
    totals = totals[totals != 0]
    rounding = 1e-9 * float(np.abs(totals).sum())
    observed = abs(float(totals.sum())) - rounding
    if len(np.unique(np.abs(totals))) < 2:
        return mcnemar_exact(int((totals < 0).sum()), int((totals > 0).sum()))
    if len(totals) <= EXACT_CLUSTERS:
        bits = (np.arange(2 ** len(totals))[:, None] >> np.arange(len(totals))) & 1
        patterns = 1 - 2.0 * bits
        return float((np.abs(patterns @ totals) >= observed).mean())
    random = np.random.default_rng(0)
    hits, block = 0, max(1, BLOCK // len(totals))
    for start in range(0, DRAWN_FLIPS, block):
        signs = random.integers(0, 2, (min(block, DRAWN_FLIPS - start), len(totals)), dtype=np.int8) * 2 - 1
        hits += int((np.abs(signs @ totals) >= observed).sum())
    return (hits + 1) / (DRAWN_FLIPS + 1)


class SignTest(Facts, frozen=True, kw_only=True):
    """Preferences between two answers. `share`: wins among the decided ones with its Wilson `interval`; `p`: two-sided."""

    wins: int
    losses: int
    ties: int
    n: int = 0  # as the next two, not in what earlier releases wrote of a judge that was asked nothing
    share: float | None
    interval: Interval | None
    p: float | None


def sign_test(signs: Sequence[int], clusters: Units | None = None, confidence: float = 0.95) -> SignTest:
    """Test preferences between two answers, each a win (1), a loss (-1) or a tie (0).

    With `clusters` (one per answer), interval and p count sources. If nothing is decided: share null, interval (0, 1), p 1.
    """
    decided = [sign for sign in signs if sign]
    units = [i if clusters is None else clusters[i] for i, sign in enumerate(signs) if sign]
    won = [float(sign > 0) for sign in decided]
    return SignTest(
        wins=int(sum(won)),
        losses=len(decided) - int(sum(won)),
        ties=len(signs) - len(decided),
        n=len(signs),
        share=sum(won) / len(won) if won else None,
        interval=clustered_share(won, units, confidence)[0] if won else (0.0, 1.0),
        p=cluster_sign_flip(decided, units) if decided else 1.0,
    )
