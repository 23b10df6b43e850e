"""Micro-F1 of the values in JSON answers, over all fields and rows."""

import numpy as np

from finetune_pipeline.evaluation.correctness import read_json
from finetune_pipeline.evaluation.metrics.base import Clusters, Gain, Metric, Rows, register, within_scale
from finetune_pipeline.evaluation.statistics.proportions import Interval, cluster_codes, effective_sources
from finetune_pipeline.evaluation.statistics.resampling import RESAMPLES, SEED, draws_interval
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput


@register
class MicroF1(Metric):
    """F1 over the claims of all rows together. Intervals resample rows (percentile bootstrap)."""

    name, kinds, title = "micro_f1", ("json",), "micro-F1 of the fields"
    described = "F1 of all values in the answers, over all fields and rows together"
    hub_name = "f1"

    def value(self, rows: Rows, output: AnyOutput) -> float | None:
        return f1_of(*map(int, claim_counts(rows, output).sum(axis=0)))

    def interval(self, rows: Rows, output: AnyOutput, confidence: float, clusters: Clusters = None) -> Interval | None:
        return within_scale(_bootstrap(claim_counts(rows, output), None, confidence, clusters))

    def gain(self, before: Rows, after: Rows, output: AnyOutput, confidence: float, clusters: Clusters = None) -> Gain:
        old, new = (claim_counts(rows, output) for rows in (before, after))
        f1 = [f1_of(*map(int, counts.sum(axis=0))) or 0.0 for counts in (old, new)]
        return Gain(f1[1] - f1[0], _bootstrap(new, old, confidence, clusters))


def f1_of(correct: float, claimed: float, expected: float) -> float | None:
    """F1 from counts of right, claimed and expected items; None without claimed or expected ones."""
    return 2 * correct / (claimed + expected) if claimed + expected else None


def claim_counts(rows: Rows, output: AnyOutput) -> np.ndarray:
    """Count the right, claimed and expected values of every answer. Shape (rows, 3)."""
    assert isinstance(output, JsonOutput)
    return np.array([read_json(row, output).counts() for row in rows], dtype=float).reshape(len(rows), 3)


def _bootstrap(counts: np.ndarray, base: np.ndarray | None, confidence: float, clusters: Clusters) -> Interval | None:
    """Interval of F1, or of its gain over `base`, resampling rows with both sides (or whole sources). None for fewer than two of
    these, or if a resample has nothing to count."""
    codes = cluster_codes(range(len(counts)) if clusters is None else clusters)
    n = int(codes.max(initial=-1)) + 1
    if n < 2:
        return None
    draws = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    weights = np.vstack([np.ones(n), draws])[:, codes]  # the first row is the original sample

    def f1(claims: np.ndarray) -> np.ndarray:
        correct, claimed, expected = (weights @ claims).T
        undefined = np.full(len(weights), np.nan)
        return np.asarray(np.divide(2 * correct, claimed + expected, where=claimed + expected > 0, out=undefined))

    values = f1(counts) - (f1(base) if base is not None else 0)
    if np.isnan(values).any():
        return None
    return draws_interval(values[1:], float(values[0]), confidence, effective_sources(codes.tolist()))
