"""Extrapolates pilot trainings on an eighth, a quarter and a half of the rows to training on all of them.

A doubling of the rows adds between nothing and MAX_CARRY times what the previous doubling added: learning curves flatten
(Hestness et al. 2017, arXiv:1712.00409). The interval includes that uncertainty, that of the sample of rows, and the variation
between trainings.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from finetune_pipeline.evaluation.metrics import METRICS, RowMetric
from finetune_pipeline.evaluation.statistics.proportions import cluster_codes
from finetune_pipeline.spec.model import TaskSpec

Row = Mapping[str, Any]
MAX_CARRY = 1.25
"""Largest gain of a doubling, as share of the previous doubling's gain."""
TRAINING_NOISE = 0.02
"""Standard deviation of the score between trainings that differ only in the order of rows: two points."""
DRAWS = 4000
MAX_DOUBLINGS = 7
"""More doublings of the rows than this are not asked for."""


class Point(BaseModel):
    """One training of the pilot. share: of the training rows. value: in the metric that decides, on validation."""

    share: float
    rows: int
    steps: int
    value: float
    interval: tuple[float, float] | None
    seconds: float | None = None


class Extrapolation(BaseModel):
    """The expected score when training on all rows.

    Attributes:
        gain: Over the best simpler rung on the same rows.
        slope: The recent gain per doubling of the rows (over the last three points, if available).
    """

    value: float
    interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]
    slope: float


def extrapolate(
    spec: TaskSpec,
    points: Mapping[float, Sequence[Row]],
    rival: Sequence[Row],
    clusters: Sequence[Hashable] | None = None,
) -> Extrapolation | None:
    """Extrapolate to all rows. None with fewer than two points or sources, or for a metric that is not a mean over rows.

    Args:
        points: Prediction rows on validation by share of the training rows.
        rival: Rows of the best simpler rung on the same examples, in the same order.
        clusters: The source of every row, if shared: the bootstrap draws whole sources.
    """
    metric = METRICS[spec.metric]
    if len(points) < 2 or not isinstance(metric, RowMetric) or not rival:
        return None
    shares = sorted(points)
    scores = np.array([metric.row_scores(points[share], spec.output) for share in shares])
    rival_scores = np.array(metric.row_scores(rival, spec.output))
    sign = 1.0 if metric.higher_is_better else -1.0
    random = np.random.default_rng(0)
    codes = np.arange(scores.shape[1]) if clusters is None else cluster_codes(clusters)
    n = int(codes.max()) + 1
    if n < 2:
        return None
    weights = random.multinomial(n, [1 / n] * n, size=DRAWS)[:, codes].astype(float)
    weights /= weights.sum(axis=1, keepdims=True)
    means = weights @ scores.T + random.normal(0, TRAINING_NOISE, (DRAWS, len(shares)))
    carried = random.uniform(0, MAX_CARRY, DRAWS)
    drawn_values = _extrapolated(means, shares, carried, sign) + random.normal(0, TRAINING_NOISE, DRAWS)
    drawn_values = np.clip(drawn_values, 0, 1)
    drawn_gains = sign * (drawn_values - weights @ rival_scores)
    expected = _extrapolated(scores.mean(axis=1)[None], shares, np.array([MAX_CARRY / 2]), sign)
    tails = ((1 - spec.gates.confidence) / 2, (1 + spec.gates.confidence) / 2)
    low, high = map(float, np.quantile(drawn_values, tails))
    gain_low, gain_high = map(float, np.quantile(drawn_gains, tails))
    value = float(np.clip(expected[0], 0, 1))
    return Extrapolation(
        value=value,
        interval=(min(low, value), max(high, value)),
        gain=sign * (value - float(rival_scores.mean())),
        gain_interval=(gain_low, gain_high),
        slope=float(sign * _gain_per_doubling(scores.mean(axis=1)[None], shares)[0]),
    )


def _gain_per_doubling(means: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """The recent gain per doubling of the rows: over the last three points, if available."""
    first = max(-3, -len(shares))
    return np.asarray((means[:, -1] - means[:, first]) / math.log2(shares[-1] / shares[first]))


def _extrapolated(means: np.ndarray, shares: Sequence[float], carried: np.ndarray, sign: float) -> np.ndarray:
    """The score with all rows. Each doubling adds `carried` times what the one before it added, and none lowers the score."""
    added = sign * np.maximum(sign * _gain_per_doubling(means, shares), 0.0)
    doublings = math.log2(1 / shares[-1])
    full_doublings = int(doublings)
    factor = np.zeros_like(carried)
    for number in range(1, full_doublings + 1):
        factor += carried**number
    factor += (doublings - full_doublings) * carried ** (full_doublings + 1)
    return np.asarray(means[:, -1] + added * factor)


def rows_for(gain: float, slope: float, rows: int) -> int | None:
    """How many more rows should add `gain`, if every doubling adds half of `MAX_CARRY` times what the previous one did.

    None if the curve does not rise, or if more than MAX_DOUBLINGS would be needed.
    """
    carried, added, doublings = MAX_CARRY / 2, slope, 0.0
    if slope <= 0 or gain <= 0:
        return None
    while gain > 0 and doublings < MAX_DOUBLINGS:
        added *= carried
        part = min(1.0, gain / added)
        doublings, gain = doublings + part, gain - part * added
    return None if gain > 1e-9 else math.ceil(rows * (2**doublings - 1))
