"""The gain of one model over another on the same rows, in the metric that decides."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune_pipeline.evaluation.answers import answer_of
from finetune_pipeline.evaluation.metrics import label_metrics
from finetune_pipeline.evaluation.row_scores import is_right, metric_values, row_scores
from finetune_pipeline.evaluation.statistics import (
    clustered_tango_interval,
    paired_bootstrap_f1,
    paired_bootstrap_mean,
    tango_interval,
)
from finetune_pipeline.evaluation.written_metrics import f1_interval, f1_of
from finetune_pipeline.spec.outputs import AnyOutput

Row = Mapping[str, Any]


def gain(
    metric: str,
    base: Sequence[Row],
    candidate: Sequence[Row],
    output: AnyOutput,
    confidence: float = 0.95,
    clusters: Sequence[Hashable] | None = None,
) -> dict[str, Any]:
    """{gain, interval} of `candidate` minus `base` in a metric; rows of both in the same order of examples.

    Right or wrong (accuracy, exact): Tango's interval. macro_f1 and micro_f1: paired bootstrap over the counts. Means
    over rows (overlap, facts): paired bootstrap of the mean; null for a single row. `clusters`: the source of every row,
    where rows share one; intervals then count sources (see statistics.clusters).
    """
    n = len(base)
    if metric in ("accuracy", "exact"):
        before, after = ([is_right(row, output) for row in side] for side in (base, candidate))
        b = sum(x and not y for x, y in zip(before, after, strict=True))
        c = sum(y and not x for x, y in zip(before, after, strict=True))
        if clusters is not None:
            interval = clustered_tango_interval(
                [float(x) for x in before], [float(y) for y in after], clusters, confidence
            )
            return {"gain": (c - b) / n, "interval": list(interval)}
        return {"gain": (c - b) / n, "interval": list(tango_interval(b, c, n, confidence))}
    if metric == "macro_f1":
        labels = list(output.labels)  # type: ignore[union-attr]
        x, y = ([answer_of(row, labels) for row in side] for side in (base, candidate))
        gold = [r["gold"] for r in base]
        interval = paired_bootstrap_f1(gold, x, y, labels, confidence=confidence, clusters=clusters)
        f1 = [label_metrics(side, labels, confidence)["macro_f1"] for side in (base, candidate)]
        return {"gain": f1[1] - f1[0], "interval": list(interval)}
    if metric == "micro_f1":
        x_counts, y_counts = (claim_counts(side, output) for side in (base, candidate))
        f1 = [f1_of(*map(int, counts.sum(axis=0))) or 0.0 for counts in (x_counts, y_counts)]
        if clusters is not None:
            x_counts, y_counts = (_per_source(counts, clusters) for counts in (x_counts, y_counts))
        return {"gain": f1[1] - f1[0], "interval": f1_interval(y_counts, x_counts, confidence=confidence)}
    old, new = (metric_values(side, metric, output) for side in (base, candidate))
    return {
        "gain": (sum(new) - sum(old)) / n,
        "interval": list(paired_bootstrap_mean(old, new, confidence=confidence, clusters=clusters)) if n > 1 else None,
    }


def _per_source(counts: np.ndarray, clusters: Sequence[Hashable]) -> np.ndarray:
    """Rows of one source, added up."""
    order = {source: i for i, source in enumerate(dict.fromkeys(clusters))}
    summed = np.zeros((len(order), counts.shape[1]), counts.dtype)
    np.add.at(summed, [order[source] for source in clusters], counts)
    return summed


def claim_counts(rows: Sequence[Row], output: AnyOutput) -> np.ndarray:
    """(right, claimed, expected) claims of every extraction, a row each."""
    scores = [row_scores(row, output) for row in rows]
    return np.array([[s["right"], s["claimed"], s["expected"]] for s in scores])
