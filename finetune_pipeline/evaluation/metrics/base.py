"""Base class and registry of metrics.

A metric is one module of this package with one class::

    from finetune_pipeline.evaluation.correctness import Row, scored_text
    from finetune_pipeline.evaluation.metrics.base import RowMetric, register
    from finetune_pipeline.spec.outputs import AnyOutput

    @register
    class FirstWord(RowMetric):
        name, kinds, title = "first_word", ("text",), "right first words"
        described = "the first word of the answer is that of the right one"

        def row_score(self, row: Row, output: AnyOutput) -> float:
            return float(scored_text(row).split()[:1] == str(row["gold"]).split()[:1])
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, TypeVar

import numpy as np

from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.scored_rows import ScoredRow, scored_row
from finetune_pipeline.evaluation.statistics.proportions import (
    Interval,
    cluster_sign_flip,
    clustered_share,
    clustered_tango_interval,
)
from finetune_pipeline.evaluation.statistics.resampling import paired_bootstrap_mean
from finetune_pipeline.evaluation.wording import percent, points
from finetune_pipeline.spec import outputs
from finetune_pipeline.spec.outputs import AnyOutput

Rows = Sequence[Row]
Clusters = Sequence[Hashable] | None
"""The source of every row, if rows share one."""


@dataclass(frozen=True, slots=True)
class Gain:
    """The gain of one model over another on the same rows; `interval` is None with too few rows or sources."""

    gain: float
    interval: Interval | None

    def surely_above(self, margin: float = 0.0) -> bool:
        """Whether the whole interval lies above a margin."""
        return self.interval is not None and self.interval[0] > margin


def within_scale(interval: Interval | None) -> Interval | None:
    """An interval clipped to the range of scores, 0 to 1."""
    return interval and (min(max(interval[0], 0.0), 1.0), min(max(interval[1], 0.0), 1.0))


class Metric(ABC):
    """How answers are scored, from 0 to 1.

    Attributes:
        kinds: Kinds of output it fits.
        title: Name inside a sentence of a report.
        described: What it measures, for the reference page.
        right_or_wrong: Whether it is the share of correct answers.
        hub_name: Its name on the Hugging Face Hub; None omits it from model cards.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    title: ClassVar[str]
    described: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    right_or_wrong: ClassVar[bool] = False
    hub_name: ClassVar[str | None] = None

    @abstractmethod
    def value(self, rows: Rows, output: AnyOutput) -> float | None:
        """Score a set of rows; None if undefined."""

    @abstractmethod
    def interval(self, rows: Rows, output: AnyOutput, confidence: float, clusters: Clusters = None) -> Interval | None:
        """The interval of :meth:`value`; None with too few rows or sources (`clusters`, as for :meth:`gain`)."""

    @abstractmethod
    def gain(self, before: Rows, after: Rows, output: AnyOutput, confidence: float, clusters: Clusters = None) -> Gain:
        """Compare two models on the same rows, in the same order. clusters: the source of every row, if rows share one; the
        interval then counts sources."""

    def rank(self, value: float | None) -> float:
        """The value on a scale where 1 is best, to compare models by; no value ranks worst. The rank of a rank is the value."""
        if value is None:
            return 0.0
        return value if self.higher_is_better else 1 - value

    def score(self, rows: Rows, output: AnyOutput) -> float:
        """:meth:`value`, or the worst one if it is undefined."""
        value = self.value(rows, output)
        return self.rank(0.0) if value is None else value


class RowMetric(Metric):
    """A metric that is a mean of row scores, so that paired tests apply. Intervals are bootstrap intervals of the mean."""

    @abstractmethod
    def row_score(self, row: Row, output: AnyOutput) -> float:
        pass

    def row_scores(self, rows: Rows, output: AnyOutput) -> list[float]:
        """The score of every row. A scored row keeps it."""
        return [self._score_once(scored_row(row, output)) for row in rows]

    def _score_once(self, row: ScoredRow) -> float:
        if self.name not in row.scores:
            score = self.row_score(row, row.output)
            if not -1e-9 <= score <= 1 + 1e-9:  # NaN fails too
                where = f"metric {self.name}: row_score of {row['example_id']}"
                raise ValueError(f"{where} is {score}; make it return a number from 0 to 1")
            row.scores[self.name] = score
        return row.scores[self.name]

    def value(self, rows: Rows, output: AnyOutput) -> float | None:
        return sum(self.row_scores(rows, output)) / len(rows) if rows else None

    def interval(self, rows: Rows, output: AnyOutput, confidence: float, clusters: Clusters = None) -> Interval | None:
        nothing, scores = [0.0] * len(rows), self.row_scores(rows, output)
        return within_scale(paired_bootstrap_mean(nothing, scores, confidence, clusters, least=0.0)) if rows else None

    def gain(self, before: Rows, after: Rows, output: AnyOutput, confidence: float, clusters: Clusters = None) -> Gain:
        old, new = (self.row_scores(rows, output) for rows in (before, after))
        if not self.higher_is_better:
            old, new = new, old
        return Gain((sum(new) - sum(old)) / len(old), self.gain_interval(old, new, confidence, clusters))

    @staticmethod
    def gain_interval(
        a: Sequence[float], b: Sequence[float], confidence: float = 0.95, clusters: Clusters = None
    ) -> Interval | None:
        return paired_bootstrap_mean(a, b, confidence, clusters)

    def p_value(self, before: Rows, after: Rows, output: AnyOutput, clusters: Clusters = None) -> float:
        """Two-sided p of Fisher's sign-flip test of the mean."""
        difference = np.subtract(self.row_scores(after, output), self.row_scores(before, output))
        return cluster_sign_flip(difference.tolist(), clusters or range(len(difference)))


class ShareOfRight(RowMetric):
    """The share of right answers, with Wilson's interval; gains have Tango's."""

    right_or_wrong = True

    def row_score(self, row: Row, output: AnyOutput) -> float:
        return float(scored_row(row, output).right)

    def interval(self, rows: Rows, output: AnyOutput, confidence: float, clusters: Clusters = None) -> Interval:
        units = range(len(rows)) if clusters is None else clusters
        return clustered_share(self.row_scores(rows, output), units, confidence)[0] if rows else (0.0, 1.0)

    @staticmethod
    def gain_interval(
        a: Sequence[float], b: Sequence[float], confidence: float = 0.95, clusters: Clusters = None
    ) -> Interval:
        return clustered_tango_interval(a, b, range(len(a)) if clusters is None else clusters, confidence)


METRICS: dict[str, Metric] = {}
"""Every metric by its name."""
M = TypeVar("M", bound=type[Metric])


def register(metric: M) -> M:
    """Add a metric to the registry, and its name to those that task.yaml allows."""
    METRICS[metric.name] = metric()
    outputs.METRICS[metric.name] = metric.kinds
    return metric


def metrics_of(output: AnyOutput) -> list[Metric]:
    return [metric for metric in METRICS.values() if output.kind in metric.kinds]


def is_right_or_wrong(name: str | None) -> bool:
    return name in METRICS and METRICS[name].right_or_wrong


def score_text(name: str | None, value: float | None, interval: Interval | None = None) -> str:
    """Format a score and its interval: shares of right answers in percent, other metrics in points."""
    format_ = percent if is_right_or_wrong(name) else partial(points, sign=False)
    return format_(value) + (f" ({format_(interval[0])} to {format_(interval[1])})" if interval else "")


def metric_title(name: str | None) -> str:
    """`rougeLsum` reads ROUGE-L."""
    return METRICS[name].title if name in METRICS else str(name)


def f1_of(correct: float, claimed: float, expected: float) -> float | None:
    """F1 from counts of right, claimed and expected items; None without claimed or expected ones."""
    return 2 * correct / (claimed + expected) if claimed + expected else None
