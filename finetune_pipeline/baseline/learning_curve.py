"""Extrapolates a learning curve: what more rows should add.

A doubling of the rows adds between nothing and MAX_CARRY times what the previous doubling added: learning curves flatten
(Hestness et al. 2017, arXiv:1712.00409). The same model serves the pilot's trainings on an eighth, a quarter and a half of the
rows, and the linear model that tells what new rows are worth.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.metrics import METRICS, RowMetric
from finetune_pipeline.evaluation.statistics.proportions import cluster_codes
from finetune_pipeline.spec.model import TaskSpec

MAX_CARRY = 1.25
"""Largest gain of a doubling, as share of the previous doubling's gain."""
TRAINING_NOISE = 0.02
"""Standard deviation of the score between trainings that differ only in the order of rows: two points."""
DRAWS = 4000
MAX_DOUBLINGS = 7
"""More doublings of the rows than this are not asked for."""


class Point(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """One training of the pilot. share: of the training rows. value: in the metric that decides, on validation."""

    share: float
    rows: int
    steps: int
    value: float
    interval: tuple[float, float] | None
    seconds: float | None = None


class Pilot(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """Facts of pilot. skipped: why nothing was trained; stopped: why not on all shares; both else empty."""

    skipped: str
    stopped: str
    points: list[Point]


class Extrapolation(Facts, frozen=True, kw_only=True, omit_defaults=False):
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


@dataclass(frozen=True)
class LearningCurve:
    """Scores (higher is better) on growing numbers of rows, from 0 to 1.

    Attributes:
        sizes: Numbers of rows, or shares of them, ascending.
        scores: The measured score of each size.
        draws: Scores of bootstrap samples of the validation rows; shape (samples, sizes).
        carried: What share of a doubling's gain the next one adds; one number a sample, from 0 to MAX_CARRY.
    """

    sizes: Sequence[float]
    scores: np.ndarray
    draws: np.ndarray
    carried: np.ndarray

    @property
    def slope(self) -> float:
        """The recent gain per doubling of the rows: over the last three points, if available."""
        return float(_slope(self.scores, self.sizes))

    def at(self, size: float) -> float:
        """Return the expected score with so many rows, or with this share of them."""
        return float(np.clip(_extrapolated(self.scores, self.sizes, np.array(MAX_CARRY / 2), size), 0, 1))

    def draws_at(self, size: float, noise: np.ndarray | float = 0.0) -> np.ndarray:
        """Return the score of every sample with so many rows. noise: between trainings, added to each."""
        return np.clip(_extrapolated(self.draws, self.sizes, self.carried, size) + noise, 0, 1)


def _slope(scores: np.ndarray, sizes: Sequence[float]) -> np.ndarray:
    first = max(-3, -len(sizes))
    return np.asarray((scores[..., -1] - scores[..., first]) / math.log2(sizes[-1] / sizes[first]))


def _extrapolated(scores: np.ndarray, sizes: Sequence[float], carried: np.ndarray, size: float) -> np.ndarray:
    """Each doubling adds `carried` times what the one before it added, and none lowers the score."""
    doublings = math.log2(size / sizes[-1])
    full_doublings = int(doublings)
    factor = np.zeros_like(carried)
    for number in range(1, full_doublings + 1):
        factor += carried**number
    factor += (doublings - full_doublings) * carried ** (full_doublings + 1)
    return np.asarray(scores[..., -1] + np.maximum(_slope(scores, sizes), 0.0) * factor)


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


def extrapolate(
    spec: TaskSpec,
    points: Mapping[float, Sequence[Row]],
    rival: Sequence[Row],
    clusters: Sequence[Hashable] | None = None,
) -> Extrapolation | None:
    """Extrapolate a pilot to all rows. None with fewer than two points or sources, or for a metric that is not a mean over rows.

    The interval includes the uncertainty of the curve, that of the sample of rows, and the variation between trainings.

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
    if not metric.higher_is_better:
        scores, rival_scores = 1 - scores, 1 - rival_scores
    random = np.random.default_rng(0)
    codes = np.arange(scores.shape[1]) if clusters is None else cluster_codes(clusters)
    n = int(codes.max()) + 1
    if n < 2:
        return None
    weights = random.multinomial(n, [1 / n] * n, size=DRAWS)[:, codes].astype(float)
    weights /= weights.sum(axis=1, keepdims=True)
    draws = weights @ scores.T + random.normal(0, TRAINING_NOISE, (DRAWS, len(shares)))
    curve = LearningCurve(shares, scores.mean(axis=1), draws, random.uniform(0, MAX_CARRY, DRAWS))
    drawn_values, value = curve.draws_at(1.0, random.normal(0, TRAINING_NOISE, DRAWS)), curve.at(1.0)
    tails = ((1 - spec.gates.confidence) / 2, (1 + spec.gates.confidence) / 2)
    low, high = map(float, np.quantile(drawn_values, tails))
    gain_low, gain_high = map(float, np.quantile(drawn_values - weights @ rival_scores, tails))
    low, high = sorted(map(metric.rank, (min(low, value), max(high, value))))
    return Extrapolation(
        value=metric.rank(value),
        interval=(low, high),
        gain=value - float(rival_scores.mean()),
        gain_interval=(gain_low, gain_high),
        slope=curve.slope,
    )
