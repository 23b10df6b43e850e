"""Rows that are not independent: cut from one document, one dialogue, one customer, one synthetic seed.

The rows of a cluster tend to be right or wrong together, so that n of them are worth fewer than n independent ones. The
design effect (Kish 1965) is by how much the variance is larger than that of independent rows; dividing the counts by it
gives effective counts, with which the score intervals are computed as for any other sample (Korn and Graubard 1998).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from scipy import special

from finetune_pipeline.evaluation.statistics.paired import tango_at
from finetune_pipeline.evaluation.statistics.shares import Interval, wilson_at, z_value


def _codes(clusters: Sequence[Hashable]) -> np.ndarray:
    index: dict[Hashable, int] = {}
    return np.fromiter((index.setdefault(c, len(index)) for c in clusters), dtype=np.int64, count=len(clusters))


def _checked(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    if len(values) != len(clusters) or not len(values):
        raise ValueError(f"need one cluster a value, and at least one: {len(values)} values, {len(clusters)} clusters")
    return np.asarray(values, dtype=float), _codes(clusters)


def design_effect(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Variance of the mean with clusters over the variance without them; 1 or more.

    The clustered variance is the sum of squares of the clusters' summed residuals (linearisation), with the factor
    G / (G - 1) for G clusters. Where all values are equal, or there is one cluster, nothing can be estimated, and the
    largest possible effect is taken: that of clusters whose rows are all alike, sum of squared sizes / n.
    """
    x, codes = _checked(values, clusters)
    sizes = np.bincount(codes)
    groups, n = len(sizes), len(x)
    if groups == n:
        return 1.0
    residuals = x - x.mean()
    spread = float((residuals**2).sum())
    if spread == 0 or groups == 1:
        return float((sizes**2).sum() / n)
    totals = np.bincount(codes, weights=residuals)
    clustered = float((totals**2).sum()) * groups / (groups - 1)
    return max(1.0, clustered / (spread * n / (n - 1)))


def _critical(groups: int, n: int, confidence: float) -> float:
    """Student's t with G - 1 degrees of freedom where rows are clustered: few clusters tell little about the variance."""
    if groups == n:
        return z_value(confidence)
    return float(-special.stdtrit(max(1, groups - 1), (1 - confidence) / 2))


def clustered_share(right: Sequence[float], clusters: Sequence[Hashable], confidence: float = 0.95) -> dict[str, Any]:
    """A rate where rows share a source: {k, n, share, clusters, design_effect, effective_n, interval}.

    `right`: 0 or 1 a row. The interval is Wilson's for the effective numbers. Without shared sources it is Wilson's.
    """
    x, codes = _checked(right, clusters)
    n, groups = len(x), int(codes.max()) + 1
    effect = design_effect(right, clusters)
    k = float(x.sum())
    return {
        "k": int(k),
        "n": n,
        "share": k / n,
        "clusters": groups,
        "design_effect": effect,
        "effective_n": n / effect,
        "interval": list(wilson_at(k / effect, n / effect, _critical(groups, n, confidence))),
    }


def clustered_tango_interval(
    before: Sequence[float], after: Sequence[float], clusters: Sequence[Hashable], confidence: float = 0.95
) -> Interval:
    """Tango's interval of the paired gain where rows share a source: counts divided by the design effect of the
    differences. Without shared sources it is :func:`paired.tango_interval`."""
    first, codes = _checked(before, clusters)
    difference = np.asarray(after, dtype=float) - first
    effect = design_effect(list(difference), clusters)
    b, c, n = float((difference < 0).sum()), float((difference > 0).sum()), len(first)
    return tango_at(b / effect, c / effect, n / effect, _critical(int(codes.max()) + 1, n, confidence))


def cluster_sign_flip(
    differences: Sequence[float], clusters: Sequence[Hashable], resamples: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p that the mean paired difference is zero: signs are flipped, for all rows of a cluster at once.

    Exact (all sign patterns) up to 2**13 patterns, else drawn; a drawn p counts the observed pattern too (Phipson and
    Smyth 2010), so it is never zero.
    """
    x, codes = _checked(differences, clusters)
    totals = np.bincount(codes, weights=x)
    totals = totals[totals != 0]
    observed = abs(float(totals.sum())) - 1e-9 * float(np.abs(totals).sum())
    if not len(totals):
        return 1.0
    if len(totals) <= 13:
        patterns = 1 - 2.0 * ((np.arange(2 ** len(totals))[:, None] >> np.arange(len(totals))) & 1)
        return float((np.abs(patterns @ totals) >= observed).mean())
    random = np.random.default_rng(seed)
    hits, done, block = 0, 0, max(1, 4_000_000 // len(totals))
    while done < resamples:
        size = min(block, resamples - done)
        signs = random.integers(0, 2, (size, len(totals)), dtype=np.int8) * 2 - 1
        hits += int((np.abs(signs @ totals) >= observed).sum())
        done += size
    return (hits + 1) / (resamples + 1)
