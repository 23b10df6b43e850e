"""Corrections for several hypotheses (Holm, Hochberg, Bonferroni) and for repeated use of one test set."""

from collections.abc import Callable, Sequence

import numpy as np
import scipy

from finetune_pipeline.evaluation.statistics.proportions import Interval


def holm(pvalues: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), in the order given."""
    adjusted = [0.0] * len(pvalues)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(pvalues)), key=lambda i: pvalues[i])):
        largest = max(largest, min(1.0, (len(pvalues) - rank) * pvalues[i]))
        adjusted[i] = largest
    return adjusted


def shared_confidence(confidence: float, number: int) -> float:
    """The confidence of each of several intervals that gives all of them together `confidence` (Bonferroni)."""
    return 1 - (1 - confidence) / max(1, number)


def surely_at_least(
    intervals: Sequence[Callable[[float], Interval | None]], least: float, confidence: float
) -> list[int]:
    """Which of several true scores are surely at or above `least`: the chance that any of them is named wrongly stays that of a
    single interval, however many there are.

    Hochberg's procedure (1988, Biometrika 75), which holds for scores on the same rows, since these depend on each other
    positively: of k scores, j are named if j intervals lie above `least` at the level shared by k - j + 1. Scores whose interval
    lies below `least` do not count as looked at: they could hardly be named.

    Args:
        intervals: The interval of every score, by its two-sided confidence; None if it has none.

    Returns:
        The indices of those scores.
    """
    plain = [interval(confidence) for interval in intervals]
    looked_at = sum(bounds is not None and bounds[1] >= least for bounds in plain)
    named = [i for i, bounds in enumerate(plain) if bounds is not None and bounds[0] >= least]
    shared = 1
    while named and len(named) <= looked_at - shared:
        shared += 1
        level = shared_confidence(confidence, shared)
        named = [i for i in named if (bounds := intervals[i](level)) is not None and bounds[0] >= least]
    return named


def level_left(look: int, alpha: float = 0.05) -> float:
    """Two-sided level of the look-th judgement on one test set (1 is the first): 2 alpha / (look (look + 1)).

    Half the level is the chance of promoting a useless candidate. These halves, alpha / (k (k + 1)), sum to alpha over all
    possible looks, so the chance that *any* of them promotes a useless candidate stays under alpha (union bound; the only
    assumption is that no candidate was made by looking at the test). The first look uses an ordinary interval. Raises
    ValueError for look < 1.
    """
    if look < 1:
        raise ValueError(f"looks are counted from 1, not {look}")
    return 2 * alpha / (look * (look + 1))


def looks_spent(looks: int, alpha: float = 0.05) -> float:
    """Bound on the chance that one of the first `looks` useless candidates is promoted: alpha * looks / (looks + 1)."""
    return alpha * looks / (looks + 1)


def selection_optimism(n: int, accuracy: float, candidates: int) -> float:
    """By how much one test set of n rows overestimates the best of equally good candidates, on average.

    The expected maximum of independent binomial accuracies minus the true one: an upper estimate.
    """
    if n <= 0 or candidates <= 1 or not 0 < accuracy < 1:
        return 0.0
    below = scipy.special.bdtr(np.arange(n), n, accuracy)
    expected_maximum = float((1 - below**candidates).sum())
    return max(0.0, expected_maximum / n - accuracy)
