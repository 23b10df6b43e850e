"""Acceptance sampling by attributes, single sampling plans (Dodge and Romig 1929; ISO 2859-1): how many bad rows a
sample may have for the whole to be taken. Chances are binomial, which for a finite set errs on the safe side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def chance_of_acceptance(n: int, c: int, rate: float) -> float:
    """Chance that a sample of `n` has at most `c` bad rows when the share `rate` of all rows is bad."""
    from scipy.stats import binom

    return float(binom.cdf(c, n, rate)) if c >= 0 else 0.0


def acceptance_number(n: int, intolerable: float, risk: float) -> int:
    """The largest c with chance_of_acceptance(n, c, intolerable) <= risk; -1 when the sample is too small for any."""
    from scipy.stats import binom

    c = int(binom.ppf(risk, n, intolerable))
    while c >= 0 and chance_of_acceptance(n, c, intolerable) > risk:
        c -= 1
    while c + 1 < n and chance_of_acceptance(n, c + 1, intolerable) <= risk:
        c += 1
    return c


def smallest_sample(intolerable: float, risk: float) -> int | None:
    """Rows of the smallest sample that can accept anything: (1 - intolerable)^n <= risk. None when there is none."""
    if intolerable <= 0:
        return None
    if intolerable >= 1:
        return 1
    n = max(1, math.floor(math.log(risk) / math.log1p(-intolerable)))
    while (1 - intolerable) ** n > risk:
        n += 1
    return n


def fair_sample(acceptable: float, intolerable: float, risk: float, most: int = 100_000) -> tuple[int, int] | None:
    """(n, c) of the smallest plan wrong with at most `risk` at either level; None when there is none up to `most` rows."""
    from scipy.stats import binom

    if not acceptable < intolerable or intolerable <= 0:
        return None
    c, n = 0, 1
    while n <= most:
        low, high = n, most + 1
        while low < high:  # the smallest n that keeps a bad set out with this c
            middle = (low + high) // 2
            low, high = (low, middle) if binom.cdf(c, middle, intolerable) <= risk else (middle + 1, high)
        n = low
        if n <= most and binom.cdf(c, n, acceptable) >= 1 - risk:
            return n, c
        c += 1
    return None


def operating_curve(n: int, c: int, rates: Sequence[float]) -> list[dict[str, float]]:
    """What the plan does at each true share of bad rows: rate, accept (chance of acceptance)."""
    return [{"rate": rate, "accept": chance_of_acceptance(n, c, rate)} for rate in rates]


def exact_interval(bad: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a share (Clopper and Pearson 1934). (0, 1) without rows."""
    from scipy.stats import beta

    if not n:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = 0.0 if bad == 0 else float(beta.ppf(tail, bad, n - bad + 1))
    high = 1.0 if bad == n else float(beta.ppf(1 - tail, bad + 1, n - bad))
    return low, high
