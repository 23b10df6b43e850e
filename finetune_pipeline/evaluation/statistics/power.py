"""Sample size and power: rows needed for a gain, and the smallest gain that the rows can show."""

import math
from statistics import NormalDist

import numpy as np
import scipy

from finetune_pipeline.evaluation.statistics.proportions import crossing, z_value


def rows_needed_for_share(share: float, confidence: float = 0.95) -> int | None:
    """Smallest n for which n of n gives a Wilson lower bound of `share`; None if there is none (share 1)."""
    if share >= 1:
        return None
    return max(1, math.ceil(z_value(confidence) ** 2 * share / (1 - share) - 1e-9))


def _needed(gain: float, discordant_share: float, power: float, alpha: float) -> float:
    """Connor's (1987) number of pairs for a two-sided McNemar test."""
    z_alpha, z_power = z_value(1 - alpha), NormalDist().inv_cdf(power)
    spread = math.sqrt(max(discordant_share - gain * gain, 0.0))
    return (z_alpha * math.sqrt(discordant_share) + z_power * spread) ** 2 / (gain * gain)


def smallest_detectable_gain(n: int, discordant_share: float, alpha: float = 0.05) -> float | None:
    """Smallest true gain a paired test of n examples finds four times in five, two-sided at alpha (Connor 1987).

    discordant_share: share of examples on which exactly one model is right. None if not even the largest possible gain would be
    found.
    """
    if n <= 0 or discordant_share <= 0:
        return None
    largest, power = min(discordant_share, 1.0), 0.8
    if _needed(largest, discordant_share, power, alpha) > n:
        return None
    return crossing(lambda gain: _needed(gain, discordant_share, power, alpha) - n, 1e-9, largest)


def rows_needed_for_gain(gain: float, discordant_share: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Pairs at which a true gain is found with the given power, two-sided at alpha (Connor 1987).

    Raises ValueError unless 0 < gain <= discordant_share <= 1: a gain consists of rows on which exactly one is right.
    """
    if not 0 < gain <= discordant_share + 1e-12 or discordant_share > 1:  # 1 - 0.9 is a little less than 0.1
        raise ValueError(f"a gain of {gain} needs at least that share of disagreements, at most 1: {discordant_share}")
    return math.ceil(_needed(gain, discordant_share, power, alpha) - 1e-9)


def paired_power(n: int, gain: float, discordant_share: float, alpha: float = 0.05) -> float:
    """Chance that the lower bound of Tango's two-sided 1 - alpha interval lies above zero: exact, by enumeration.

    At zero, Tango's statistic is McNemar's, (c - b) / sqrt(b + c). The number of discordant pairs is binomial, and so is c
    given that number. Raises ValueError unless |gain| <= discordant_share <= 1 and n > 0.
    """
    if n <= 0 or not abs(gain) <= discordant_share <= 1:
        raise ValueError(f"n={n}, gain={gain}, discordant share={discordant_share} is no paired design")
    if discordant_share == 0:
        return 0.0
    m = np.arange(1, n + 1)
    reached = np.floor((m + z_value(1 - alpha) * np.sqrt(m)) / 2 + 1e-12)  # c must be above this
    wins = (discordant_share + gain) / (2 * discordant_share)
    chance = scipy.special.bdtr(m, n, discordant_share) - scipy.special.bdtr(m - 1, n, discordant_share)
    return float((chance * scipy.special.bdtrc(np.minimum(reached, m), m, wins)).sum())


def detectable_mean(n: int, deviation: float, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """Smallest true gain in a mean that n pairs show, for a standard deviation of the paired differences; None for n < 2."""
    return None if n < 2 else (z_value(1 - alpha) + NormalDist().inv_cdf(power)) * deviation / math.sqrt(n)


def rows_needed_for_mean(gain: float, deviation: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Pairs at which a true gain in a mean is found, for a standard deviation of the paired differences, two-sided. Raises
    ValueError unless gain > 0 and deviation >= 0."""
    if gain <= 0 or deviation < 0:
        raise ValueError(f"gain={gain} must be above 0, deviation={deviation} not below")
    return max(2, math.ceil(((z_value(1 - alpha) + NormalDist().inv_cdf(power)) * deviation / gain) ** 2))
