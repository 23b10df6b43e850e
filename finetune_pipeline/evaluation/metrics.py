"""Scores of one model on one set of rows, as plain JSON values. Pure functions of prediction rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.answers import INVALID, answer_of, likelihood_rows
from finetune_pipeline.evaluation.calibration import calibration
from finetune_pipeline.evaluation.predictions import STATUSES
from finetune_pipeline.evaluation.row_scores import Form, as_output, is_valid
from finetune_pipeline.evaluation.statistics import paired_bootstrap_macro_f1, wilson_interval
from finetune_pipeline.evaluation.written_metrics import form_counts, json_metrics, text_metrics
from finetune_pipeline.spec.outputs import JsonOutput, LabelsOutput, TextOutput, default_metric

Row = Mapping[str, Any]


def label_metrics(rows: Sequence[Row], labels: Sequence[str], confidence: float = 0.95) -> dict[str, Any]:
    """Scores of strict label answers.

    Returns n, correct, accuracy with Wilson `interval`, macro_f1 and weighted_f1, `per_class` {label: precision,
    recall, f1, support}, `confusion` {labels, columns, counts} with an extra last column `invalid`, `valid` (see
    :func:`valid_share`) and `statuses`. An invalid answer is wrong for its gold label and a claim for none. Macro-F1 is
    the plain mean over the labels that occur among the gold answers; `absent_labels` names the others. Shares are null
    when there is nothing to divide by. Raises ValueError when a gold answer is not one of `labels`.
    """
    if unknown := sorted({row["gold"] for row in rows} - set(labels)):
        raise ValueError(f"gold answers outside the label set: {', '.join(map(repr, unknown))}")
    column = {label: i for i, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for row in rows:
        answer = answer_of(row, labels)
        counts[column[row["gold"]]][len(labels) if answer is None else column[answer]] += 1
    n, correct = len(rows), sum(counts[i][i] for i in range(len(labels)))
    per_class = {label: _class_scores(counts, i) for i, label in enumerate(labels)}
    present = [label for label in labels if per_class[label]["support"]]
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n if n else None,
        "interval": list(wilson_interval(correct, n, confidence)),
        "macro_f1": sum(per_class[x]["f1"] for x in present) / len(present) if present else None,
        "weighted_f1": sum(per_class[x]["f1"] * per_class[x]["support"] for x in present) / n if n else None,
        "per_class": per_class,
        "absent_labels": [label for label in labels if label not in present],
        "confusion": {"labels": list(labels), "columns": [*labels, INVALID], "counts": counts},
        "valid": valid_share(rows, labels, confidence),
        "statuses": count_statuses(rows),
    }


def _class_scores(counts: Sequence[Sequence[int]], i: int) -> dict[str, Any]:
    right, support, said = counts[i][i], sum(counts[i]), sum(row[i] for row in counts)
    return {
        "precision": right / said if said else None,
        "recall": right / support if support else None,
        "f1": 2 * right / (support + said) if support + said else 0.0,
        "support": support,
        "predicted": said,
    }


def likelihood_metrics(
    rows: Sequence[Row], labels: Sequence[str], confidence: float = 0.95, metric: str | None = None
) -> dict[str, Any] | None:
    """:func:`score` of the most likely label instead of the generated text; None when rows carry no scores."""
    if not any(row["label_scores"] for row in rows):
        return None
    return score(likelihood_rows(rows, labels), labels, confidence, metric)


def valid_share(rows: Sequence[Row], form: Form, confidence: float = 0.95) -> dict[str, Any]:
    """{valid, n, share, interval}: finished answers in the declared form (see answer_rules.form_problems)."""
    output = as_output(form)
    valid, n = sum(is_valid(row, output) for row in rows), len(rows)
    return {
        "valid": valid,
        "n": n,
        "share": valid / n if n else None,
        "interval": list(wilson_interval(valid, n, confidence)),
    }


def count_statuses(rows: Sequence[Row]) -> dict[str, int]:
    """Rows per generation status, every status named."""
    counts = Counter(row["status"] for row in rows)
    return {status: counts[status] for status in STATUSES}


def score(rows: Sequence[Row], form: Form, confidence: float = 0.95, metric: str | None = None) -> dict[str, Any]:
    """Scores of one model by the kind of output; `form`: an output of the spec, or a label set, empty for free text.

    Labels: :func:`label_metrics` and `calibration`; JSON and text: see written_metrics, and `form` (rules broken). All
    with `valid` and `statuses`, and `primary` {name, value, interval}: the metric that decides, `metric` or the default.
    """
    output = as_output(form)
    name = metric or default_metric(output)
    if isinstance(output, LabelsOutput):
        made = label_metrics(rows, output.labels, confidence)
        made["calibration"] = calibration(rows, output.labels)
        if name == "macro_f1" and rows:
            made["macro_f1_interval"] = macro_f1_interval(rows, output.labels, confidence)
    else:
        shared = {"valid": valid_share(rows, output, confidence), "statuses": count_statuses(rows)}
        made = written(rows, output, confidence)
        made |= shared | {"form": form_counts(rows, output)}
    interval = made["interval"] if name in ("accuracy", "exact") else made.get(f"{name}_interval")
    return made | {"primary": {"name": name, "value": made[name], "interval": interval}}


def written(rows: Sequence[Row], output: JsonOutput | TextOutput, confidence: float = 0.95) -> dict[str, Any]:
    """:func:`json_metrics` or :func:`text_metrics`."""
    if isinstance(output, JsonOutput):
        return json_metrics(rows, output, confidence)
    return text_metrics(rows, output, confidence)


def macro_f1_interval(rows: Sequence[Row], labels: Sequence[str], confidence: float = 0.95) -> list[float]:
    """Bootstrap interval of macro-F1: of the gain over a model that never answers, whose macro-F1 is 0."""
    gold = [row["gold"] for row in rows]
    said = [answer_of(row, labels) for row in rows]
    return list(paired_bootstrap_macro_f1(gold, [None] * len(rows), said, labels, confidence=confidence))
