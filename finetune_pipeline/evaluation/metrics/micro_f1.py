"""Micro-F1 of the values in JSON answers, over all fields and rows."""

import numpy as np

from finetune_pipeline.evaluation.metrics.base import Clusters, Gain, Metric, Rows, f1_of, register, within_scale
from finetune_pipeline.evaluation.scored_rows import scored
from finetune_pipeline.evaluation.statistics.proportions import Interval
from finetune_pipeline.evaluation.statistics.resampling import paired_bootstrap_mean
from finetune_pipeline.spec.outputs import AnyOutput


@register
class MicroF1(Metric):
    """F1 over the claims of all rows together. Intervals are those of a mean (bootstrap-t) of each row's linear contribution."""

    name, kinds, title = "micro_f1", ("json",), "micro-F1 of the fields"
    described = "F1 of all values in the answers, over all fields and rows together"
    hub_name = "f1"

    def value(self, rows: Rows, output: AnyOutput) -> float | None:
        return f1_of(*claim_counts(rows, output).sum(axis=0).tolist())

    def interval(self, rows: Rows, output: AnyOutput, confidence: float, clusters: Clusters = None) -> Interval | None:
        scores = _contributions(claim_counts(rows, output))
        if scores is None:
            return None
        return within_scale(paired_bootstrap_mean([0.0] * len(rows), scores, confidence, clusters, least=0.0))

    def gain(self, before: Rows, after: Rows, output: AnyOutput, confidence: float, clusters: Clusters = None) -> Gain:
        old, new = (claim_counts(rows, output) for rows in (before, after))
        f1_before, f1_after = (f1_of(*counts.sum(axis=0).tolist()) or 0.0 for counts in (old, new))
        first, second = _contributions(old), _contributions(new)
        interval = paired_bootstrap_mean(first, second, confidence, clusters) if first and second else None
        return Gain(f1_after - f1_before, interval)


def claim_counts(rows: Rows, output: AnyOutput) -> np.ndarray:
    """Count the right, claimed and expected values of every answer. Shape (rows, 3)."""
    return np.array([row.json.counts() for row in scored(rows, output)], dtype=float).reshape(len(rows), 3)


def _contributions(counts: np.ndarray) -> list[float] | None:
    """A score of every row whose mean is F1, and varies as F1 does for small changes (linearisation); None if F1 is undefined."""
    correct, totals = counts[:, 0], counts[:, 1] + counts[:, 2]
    f1 = f1_of(*counts.sum(axis=0).tolist())
    if f1 is None:
        return None
    return [float(score) for score in f1 + (2 * correct - f1 * totals) * len(counts) / totals.sum()]
