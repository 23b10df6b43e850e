"""Rates: k of n."""

from __future__ import annotations

import math
from statistics import NormalDist

Interval = tuple[float, float]


def z_value(confidence: float) -> float:
    """Standard normal quantile of a two-sided `confidence` (0.95 gives 1.96). Raises ValueError outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return -NormalDist().inv_cdf((1 - confidence) / 2)  # the small tail, which keeps its digits near confidence 1


def wilson_interval(k: float, n: float, confidence: float = 0.95) -> Interval:
    """Score interval of a share, k of n (Wilson 1927). n = 0 gives (0, 1). Raises ValueError unless 0 <= k <= n.

    k and n may be effective numbers of rows (see clusters.clustered_share) and need not be whole.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is not a share")
    return wilson_at(k, n, z_value(confidence))


def wilson_at(k: float, n: float, z: float) -> Interval:
    """:func:`wilson_interval` for a critical value instead of a confidence."""
    if n == 0:
        return 0.0, 1.0
    z2 = z * z
    centre = (k + z2 / 2) / (n + z2)
    half = z / (n + z2) * math.sqrt(k * (n - k) / n + z2 / 4)
    return (0.0 if k == 0 else max(0.0, centre - half)), (1.0 if k == n else min(1.0, centre + half))
