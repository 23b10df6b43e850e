"""Intervals, paired tests and power: small enough to read, tested against scipy and published values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float]


def z_value(confidence: float) -> float:
    """Standard normal quantile of a two-sided `confidence` (0.95 gives 1.96). Raises ValueError outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson_interval(k: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a share, k of n (Wilson 1927). n = 0 gives (0, 1). Raises ValueError unless 0 <= k <= n."""
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is not a share")
    if n == 0:
        return 0.0, 1.0
    z2 = z_value(confidence) ** 2
    centre = (k + z2 / 2) / (n + z2)
    half = math.sqrt(z2) / (n + z2) * math.sqrt(k * (n - k) / n + z2 / 4)
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def rows_needed_for_share(share: float, confidence: float = 0.95) -> int | None:
    """Smallest n at which n of n still gives a Wilson lower bound of `share`; None when no n does (share 1)."""
    if share >= 1:
        return None
    return max(1, math.ceil(z_value(confidence) ** 2 * share / (1 - share) - 1e-9))


def tango_interval(b: int, c: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of the gain (c - b) / n, the difference of two paired proportions (Tango 1998).

    b: pairs only the first model gets right; c: pairs only the second gets right; n: all pairs. The bounds are the
    differences at which the score statistic, with the nuisance parameter at its constrained maximum likelihood, equals
    the normal quantile. Holds its coverage when the models hardly ever disagree, where Wald and bootstrap do not.
    Raises ValueError unless b, c >= 0 and b + c <= n, n > 0.
    """
    if min(b, c) < 0 or b + c > n or n <= 0:
        raise ValueError(f"b={b}, c={c} are not discordant counts of n={n} pairs")
    z = z_value(confidence)

    def statistic(gain: float) -> float:
        linear = -b - c + (2 * n - c + b) * gain
        constant = -b * gain * (1 - gain)
        root = (math.sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
        variance = n * (2 * root + gain * (1 - gain))
        surprise = c - b - n * gain
        if variance <= 0:
            return math.copysign(math.inf, surprise) if surprise else 0.0
        return surprise / math.sqrt(variance)

    estimate = (c - b) / n
    low = _crossing(lambda gain: statistic(gain) - z, -1.0, estimate)
    high = _crossing(lambda gain: statistic(gain) + z, estimate, 1.0)
    return low, high


def _crossing(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero between low and high, by bisection; the end it does not reach, if none."""
    if falling(low) <= 0:
        return low
    if falling(high) >= 0:
        return high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided p of the exact McNemar test: a binomial test of b against c discordant pairs. No such pair gives 1."""
    if min(b, c) < 0:
        raise ValueError(f"b={b}, c={c}: counts cannot be negative")
    n = b + c
    tail = sum(math.comb(n, i) for i in range(min(b, c) + 1))
    return min(1.0, 2 * tail / 2**n)


def paired_bootstrap_macro_f1(
    gold: Sequence[str],
    a: Sequence[str | None],
    b: Sequence[str | None],
    labels: Sequence[str],
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of macro-F1 of `b` minus macro-F1 of `a`, resampling examples (both answers together).

    Macro-F1 is over the labels that occur in `gold`; None is an answer outside the set. The result does not depend on
    the order of the examples: resamples are drawn over the distinct (gold, a, b) triples. Raises ValueError on
    unequal lengths or no examples.
    """
    if not len(gold) == len(a) == len(b) or not gold:
        raise ValueError(f"need the same number of gold, a and b, at least one: {len(gold)}, {len(a)}, {len(b)}")
    index = {label: i for i, label in enumerate(label for label in labels if label in set(gold))}
    if unknown := sorted(set(gold) - set(index)):
        raise ValueError(f"gold answers outside the label set: {', '.join(unknown)}")
    triples = np.array(
        [
            (index[g], index.get(x, -1) if x else -1, index.get(y, -1) if y else -1)
            for g, x, y in zip(gold, a, b, strict=True)
        ]
    )
    distinct, counts = np.unique(triples, axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(gold), counts / len(gold), size=resamples)
    classes = np.arange(len(index))
    is_gold = distinct[:, :1] == classes

    def macro_f1(column: int) -> np.ndarray:
        is_said = distinct[:, column : column + 1] == classes
        both = draws @ (is_gold & is_said)
        either = draws @ is_gold + draws @ is_said
        scores: np.ndarray = np.divide(2.0 * both, either, out=np.zeros(both.shape), where=either > 0)
        return scores.mean(axis=1)

    return _percentiles(macro_f1(2) - macro_f1(1), confidence)


def paired_bootstrap_mean(
    a: Sequence[float], b: Sequence[float], resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Percentile interval of the mean of `b - a` over paired examples.

    Raises ValueError on unequal lengths, fewer than two pairs, or a value that is not finite.
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"need at least two pairs, and as many of either side: {len(a)}, {len(b)}")
    difference = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    if not np.isfinite(difference).all():
        raise ValueError("scores must be finite numbers")
    random = np.random.default_rng(seed)
    means = np.array([difference[random.integers(0, len(a), len(a))].mean() for _ in range(resamples)])
    return _percentiles(means, confidence)


def bootstrap_mean(values: Sequence[float], resamples: int = 2000, seed: int = 0, confidence: float = 0.95) -> Interval:
    """Percentile interval of a mean. Raises ValueError for fewer than two values or one that is not finite."""
    return paired_bootstrap_mean([0.0] * len(values), values, resamples, seed, confidence)


def _percentiles(values: np.ndarray, confidence: float) -> Interval:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def holm(pvalues: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), in the order given."""
    adjusted = [0.0] * len(pvalues)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(pvalues)), key=lambda i: pvalues[i])):
        largest = max(largest, min(1.0, (len(pvalues) - rank) * pvalues[i]))
        adjusted[i] = largest
    return adjusted


def smallest_detectable_gain(n: int, discordant_share: float, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """Smallest true gain a paired test of n examples finds with the given power, two-sided at alpha (Connor 1987).

    discordant_share: share of examples on which exactly one model is right. None when not even the largest possible
    gain, the whole discordant share in one direction, would be found.
    """
    if n <= 0 or discordant_share <= 0:
        return None
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)

    def rows_short(gain: float) -> float:
        spread = math.sqrt(max(discordant_share - gain * gain, 0.0))
        return (z_alpha * math.sqrt(discordant_share) + z_power * spread) ** 2 / (gain * gain) - n

    largest = min(discordant_share, 1.0)
    if rows_short(largest) > 0:
        return None
    return _crossing(rows_short, 1e-9, largest)


def selection_optimism(n: int, accuracy: float, candidates: int) -> float:
    """How much too high the best of equally good candidates looks on one test set of n rows, on average.

    The expected maximum of `candidates` independent binomial accuracies minus the true one: an upper estimate, since
    real candidates agree on many rows.
    """
    if n <= 0 or candidates <= 1 or not 0 < accuracy < 1:
        return 0.0
    k = np.arange(n + 1)
    log_choose = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(n + 1)])
    below = np.cumsum(np.exp(log_choose + k * math.log(accuracy) + (n - k) * math.log1p(-accuracy)))
    expected_maximum = float((1 - np.minimum(below[:-1], 1.0) ** candidates).sum())
    return max(0.0, expected_maximum / n - accuracy)
