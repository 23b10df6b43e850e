"""Macro-F1: F1 of every label, averaged over the labels that occur in the references."""

from collections.abc import Sequence

from finetune_pipeline.evaluation.metrics.base import (
    Clusters,
    Gain,
    Metric,
    Rows,
    f1_of,
    register,
    within_scale,
)
from finetune_pipeline.evaluation.scored_rows import ScoredRow, scored
from finetune_pipeline.evaluation.statistics.proportions import Interval
from finetune_pipeline.evaluation.statistics.resampling import paired_bootstrap_f1
from finetune_pipeline.spec.outputs import AnyOutput, LabelsOutput


@register
class MacroF1(Metric):
    """The plain mean of F1 over labels. Intervals resample rows (paired bootstrap), and are wide where a label has few rows."""

    name, kinds, title = "macro_f1", ("labels",), "macro-F1"
    described = "F1 of every label, averaged over the labels that occur among the right answers"
    hub_name = "f1"

    def value(self, rows: Rows, output: AnyOutput) -> float | None:
        counts = confusion(scored(rows, output), _labels(output))
        support, predicted = list(map(sum, counts)), list(map(sum, zip(*counts, strict=True)))
        f1 = [f1_of(counts[i][i], predicted[i], n) or 0.0 for i, n in enumerate(support) if n]
        return sum(f1) / len(f1) if f1 else None

    def interval(self, rows: Rows, output: AnyOutput, confidence: float, clusters: Clusters = None) -> Interval | None:
        labels = _labels(output)
        gold, answers = [row["gold"] for row in rows], [row.label for row in scored(rows, output)]
        return within_scale(paired_bootstrap_f1(gold, None, answers, labels, confidence, clusters)) if rows else None

    def gain(self, before: Rows, after: Rows, output: AnyOutput, confidence: float, clusters: Clusters = None) -> Gain:
        labels = _labels(output)
        old, new = ([row.label for row in scored(rows, output)] for rows in (before, after))
        gold = [row["gold"] for row in before]
        interval = paired_bootstrap_f1(gold, old, new, labels, confidence=confidence, clusters=clusters)
        return Gain((self.value(after, output) or 0.0) - (self.value(before, output) or 0.0), interval)


def _labels(output: AnyOutput) -> list[str]:
    assert isinstance(output, LabelsOutput)
    return list(output.labels)


def confusion(rows: Sequence[ScoredRow], labels: Sequence[str]) -> list[list[int]]:
    """Count rows by right label and answer; the last column holds invalid answers.

    Raises:
        ValueError: A right answer is not one of `labels`.
    """
    if unknown := sorted({row["gold"] for row in rows} - set(labels)):
        raise ValueError(f"gold answers outside the label set: {', '.join(map(repr, unknown))}")
    column = {label: i for i, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for row in rows:
        counts[column[row["gold"]]][len(labels) if row.label is None else column[row.label]] += 1
    return counts
