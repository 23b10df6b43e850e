"""Scores of one model on one set of rows, as plain JSON values. Pure functions of prediction rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.answers import INVALID, answer_of, likelihood_rows
from finetune_pipeline.evaluation.overlap import exact_match, rouge_scores
from finetune_pipeline.evaluation.predictions import STATUSES
from finetune_pipeline.evaluation.statistics import bootstrap_mean, wilson_interval

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


def likelihood_metrics(rows: Sequence[Row], labels: Sequence[str], confidence: float = 0.95) -> dict[str, Any] | None:
    """:func:`label_metrics` of the most likely label instead of the generated text; None when rows carry no scores."""
    if not any(row["label_scores"] for row in rows):
        return None
    return label_metrics(likelihood_rows(rows, labels), labels, confidence)


def valid_share(rows: Sequence[Row], labels: Sequence[str], confidence: float = 0.95) -> dict[str, Any]:
    """{valid, n, share, interval}: answers in the declared form.

    With labels: exactly one of them. Without (text tasks): a finished, non-empty answer.
    """
    if labels:
        valid = sum(answer_of(row, labels) is not None for row in rows)
    else:
        valid = sum(row["status"] == "ok" and bool(row["text"].strip()) for row in rows)
    n = len(rows)
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


def text_answer(row: Row) -> str:
    """The text that is scored: what was generated, even when cut at the token limit; empty when generation failed."""
    return "" if row["status"] == "error" else str(row["text"])


def text_metrics(rows: Sequence[Row], confidence: float = 0.95) -> dict[str, Any]:
    """Scores of free text: mean rouge1, rouge2 and rougeLsum, exact match (as `accuracy`, with Wilson `interval`),
    bootstrap `rougeLsum_interval` (null under two rows), `valid` and `statuses`."""
    from finetune_pipeline.evaluation.rouge import text_scores  # imports torch: only here, only for text tasks

    predictions, references = [text_answer(row) for row in rows], [row["gold"] for row in rows]
    n = len(rows)
    scores = text_scores(predictions, references) if n else {}
    correct = int(sum(exact_match(p, r) for p, r in zip(predictions, references, strict=True)))
    longest = [rouge_scores(p, r)["rougeLsum"] for p, r in zip(predictions, references, strict=True)]
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n if n else None,
        "interval": list(wilson_interval(correct, n, confidence)),
        "rouge1": scores.get("rouge1"),
        "rouge2": scores.get("rouge2"),
        "rougeLsum": scores.get("rougeLsum"),
        "rougeLsum_interval": list(bootstrap_mean(longest, confidence=confidence)) if n > 1 else None,
        "valid": valid_share(rows, [], confidence),
        "statuses": count_statuses(rows),
    }


def score(rows: Sequence[Row], labels: Sequence[str], confidence: float = 0.95) -> dict[str, Any]:
    """:func:`label_metrics` for a label task, :func:`text_metrics` where `labels` is empty."""
    return label_metrics(rows, labels, confidence) if labels else text_metrics(rows, confidence)
