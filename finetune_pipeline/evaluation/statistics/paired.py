"""Two models on the same rows, each right or wrong: what their disagreements prove."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from scipy import special

from finetune_pipeline.evaluation.statistics.shares import Interval, wilson_interval, z_value


def tango_statistic(b: float, c: float, n: float, gain: float) -> float:
    """Score statistic of the hypothesis that the true gain of the second model over the first is `gain` (Tango 1998).

    b: pairs only the first gets right; c: pairs only the second gets right; n: all pairs (need not be whole: effective
    numbers are allowed). About standard normal under the hypothesis; at gain 0 it is (c - b) / sqrt(b + c), McNemar's.
    """
    linear = -b - c + (2 * n - c + b) * gain
    constant = -b * gain * (1 - gain)
    root = (math.sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * root + gain * (1 - gain))
    surprise = c - b - n * gain
    if variance <= 0:
        return math.copysign(math.inf, surprise) if surprise else 0.0
    return surprise / math.sqrt(variance)


def tango_interval(b: float, c: float, n: float, confidence: float = 0.95) -> Interval:
    """Score interval of the gain (c - b) / n, the difference of two paired proportions (Tango 1998).

    The bounds are the differences at which :func:`tango_statistic` equals the normal quantile. Holds its coverage when
    the models hardly ever disagree, where Wald and bootstrap do not. Raises ValueError unless b, c >= 0 and
    b + c <= n, n > 0.
    """
    if min(b, c) < 0 or b + c > n * (1 + 1e-12) or n <= 0:
        raise ValueError(f"b={b}, c={c} are not discordant counts of n={n} pairs")
    return tango_at(b, c, n, z_value(confidence))


def tango_at(b: float, c: float, n: float, z: float) -> Interval:
    """:func:`tango_interval` for a critical value instead of a confidence."""
    estimate = (c - b) / n
    low = crossing(lambda gain: tango_statistic(b, c, n, gain) - z, -1.0, estimate)
    high = crossing(lambda gain: tango_statistic(b, c, n, gain) + z, estimate, 1.0)
    return low, high


def crossing(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero between low and high, by bisection; the end it does not reach, if none."""
    if falling(low) <= 0:
        return low
    if falling(high) >= 0:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def _discordant(b: int, c: int) -> int:
    if min(b, c) < 0:
        raise ValueError(f"b={b}, c={c}: counts cannot be negative")
    return b + c


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided p of the exact McNemar test: a binomial test of b against c discordant pairs. No such pair gives 1."""
    n = _discordant(b, c)
    return min(1.0, 2 * float(special.bdtr(min(b, c), n, 0.5))) if n else 1.0


def mcnemar_mid_p(b: int, c: int) -> float:
    """Two-sided mid-p of the McNemar test (Lancaster 1961): the exact p with the observed count's chance taken half.

    Closer to the level than the exact test, which is conservative where few pairs disagree; Fagerland, Lydersen and
    Laake (2013) recommend it. Never above 1.
    """
    n = _discordant(b, c)
    if not n:
        return 1.0
    fewer = min(b, c)
    here = math.exp(math.lgamma(n + 1) - math.lgamma(fewer + 1) - math.lgamma(n - fewer + 1) - n * math.log(2))
    return min(1.0, 2 * float(special.bdtr(fewer, n, 0.5)) - here)


def sign_test(wins: int, losses: int, ties: int = 0, confidence: float = 0.95) -> dict[str, Any]:
    """Preferences between two answers: {wins, losses, ties, n, share, interval, p}.

    `share`: wins among the decided pairs with its Wilson `interval`; `p`: two-sided exact binomial. Ties say nothing
    about which side is better and are left out of both, but counted. Nothing decided: share null, interval (0, 1), p 1.
    """
    decided = _discordant(losses, wins)
    if ties < 0:
        raise ValueError(f"ties={ties}: counts cannot be negative")
    return {
        "wins": wins,
        "losses": losses,
        "ties": ties,
        "n": decided + ties,
        "share": wins / decided if decided else None,
        "interval": list(wilson_interval(wins, decided, confidence)),
        "p": mcnemar_exact(losses, wins),
    }
