"""Scores of one model on one set of rows. Pure functions of prediction rows."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy

from finetune_pipeline.data.answer_rules import final_answer
from finetune_pipeline.evaluation.compare import SourceOf, shared_sources
from finetune_pipeline.evaluation.correctness import (
    INVALID,
    Row,
    complies,
    likelihood_label,
    scored_text,
)
from finetune_pipeline.evaluation.failures.kinds import REPEATED, is_refusal, repetition
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.metrics.base import Clusters, metrics_of, precision_recall_f1
from finetune_pipeline.evaluation.metrics.macro_f1 import class_scores, confusion
from finetune_pipeline.evaluation.metrics.overlap import corpus_scores
from finetune_pipeline.evaluation.predictions import count_statuses
from finetune_pipeline.evaluation.result_parts import Scores, finite
from finetune_pipeline.evaluation.scored_rows import ScoredRow, scored
from finetune_pipeline.evaluation.statistics.proportions import clustered_share
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput, LabelsOutput, TextOutput

BINS = 10
LEAST_PROBABILITY = math.exp(-50)
"""The log loss counts smaller probabilities as this one; a single 0 would make it infinite."""


def calibration(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> dict[str, Any] | None:
    """Calibration of the label likelihoods; None if no row has any.

    `confidence`: mean probability of the predicted label; `ece`: expected calibration error, the mean distance of confidence and
    accuracy over BINS bins of equal width, weighted by their rows (Naeini et al. 2015); `brier`: mean squared distance of the
    probabilities from the truth, summed over the labels (0 to 2; Brier 1950); `log_loss` in nats; `reliability`: per bin that
    holds rows low, high, n, confidence, accuracy.
    """
    scored_rows = [row for row in rows if likelihood_label(row["label_scores"], labels) is not None]
    if not scored_rows:
        return None
    probabilities = scipy.special.softmax([row["label_scores"] for row in scored_rows], axis=1)
    n, gold = len(scored_rows), np.array([labels.index(row["gold"]) for row in scored_rows])
    predicted = probabilities.argmax(axis=1)
    confidence, gold_probability = probabilities[np.arange(n), predicted], probabilities[np.arange(n), gold]
    correct = (predicted == gold).astype(float)
    one_hot = np.eye(len(labels))[gold]
    bin_index = np.minimum((confidence * BINS).astype(int), BINS - 1)
    reliability = [
        {
            "low": i / BINS,
            "high": (i + 1) / BINS,
            "n": int(in_bin.sum()),
            "confidence": float(confidence[in_bin].mean()),
            "accuracy": float(correct[in_bin].mean()),
        }
        for i in range(BINS)
        if (in_bin := bin_index == i).any()
    ]
    return {
        "n": n,
        "confidence": float(confidence.mean()),
        "accuracy": float(correct.mean()),
        "ece": sum(bin_["n"] / n * abs(bin_["confidence"] - bin_["accuracy"]) for bin_ in reliability),
        "brier": float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        "log_loss": float(-np.log(np.maximum(gold_probability, LEAST_PROBABILITY)).mean()),
        "reliability": reliability,
    }


def score(predictions: Sequence[Row], spec: TaskSpec, sources: SourceOf = None) -> Scores:
    """Score the answers of one model.

    The scores are right answers, every metric that fits the output with its interval (`NAME_interval`), and further details:
    :func:`label_details`, :func:`json_details` or :func:`text_details`. Where rows share `sources`, intervals count these.
    """
    output, confidence, primary = spec.output, spec.gates.confidence, METRICS[spec.metric]
    rows = scored(predictions, output)
    clusters = shared_sources(rows, sources)
    correct = rate([row.right for row in rows], confidence, clusters)
    scores: dict[str, Any] = {"correct": correct["k"], "accuracy": correct["share"]}
    scores |= {name: correct[name] for name in ("n", "interval", "design_effect")}
    for metric in metrics_of(output):
        scores[metric.name] = finite(metric.value(rows, output))  # metrics of users may return numpy's numbers
        if not metric.right_or_wrong:
            interval = metric.interval(rows, output, confidence, clusters)
            scores[f"{metric.name}_interval"] = list(map(float, interval)) if interval else None
    if isinstance(output, LabelsOutput):
        scores |= label_details(rows, output)
    elif isinstance(output, JsonOutput):
        scores |= json_details(rows, output, confidence, clusters)
    else:
        scores |= text_details(rows, output, confidence, clusters)
    interval_key = "interval" if primary.right_or_wrong else f"{primary.name}_interval"
    scores |= {
        "valid": valid_share(rows, output, confidence, clusters),
        "statuses": count_statuses(row["status"] for row in rows),
        "primary": {"name": primary.name, "value": scores[primary.name], "interval": scores[interval_key]},
    }
    return Scores.model_validate(scores)


def label_details(rows: Sequence[ScoredRow], output: LabelsOutput) -> dict[str, Any]:
    """`per_class` {label: precision, recall, f1, support, predicted}; `absent_labels`, which macro-F1 leaves out;
    `confusion` {labels, columns, counts} with a last column for invalid answers; `calibration`."""
    labels = list(output.labels)
    counts = confusion(rows, labels)
    per_class = class_scores(counts, labels)
    return {
        "per_class": per_class,
        "absent_labels": [label for label in labels if not per_class[label]["support"]],
        "confusion": {"labels": labels, "columns": [*labels, INVALID], "counts": counts},
        "calibration": calibration(rows, labels),
    }


def json_details(
    rows: Sequence[ScoredRow], output: JsonOutput, confidence: float, clusters: Clusters
) -> dict[str, Any]:
    """`fields` {field: precision, recall, f1, right, claimed, expected}; rates of `schema` (compliance), `strict` (valid JSON)
    and `repaired` (JSON after repair; `right_if_repaired` of these would be right); `form`."""
    answers = [row.json for row in rows]
    fields: dict[str, Counter[str]] = {}
    for answer in answers:
        for field in {*answer.claimed, *answer.gold}:
            claimed, gold = answer.claimed.get(field, Counter()), answer.gold.get(field, Counter())
            fields.setdefault(field, Counter()).update(
                right=(claimed & gold).total(), claimed=claimed.total(), expected=gold.total()
            )
    repaired = rate([answer.parse == "repaired" for answer in answers], confidence, clusters)
    repaired["right_if_repaired"] = sum(
        answer.parse == "repaired" and answer.same and row["status"] == "ok"
        for answer, row in zip(answers, rows, strict=True)
    )
    return {
        "fields": {field or "(the value)": _field_scores(counts) for field, counts in sorted(fields.items())},
        "schema": rate([complies(answer, output) for answer in answers], confidence, clusters),
        "strict": rate([answer.parse == "strict" for answer in answers], confidence, clusters),
        "repaired": repaired,
        "form": form_counts(rows),
    }


def _field_scores(counts: Counter[str]) -> dict[str, Any]:
    return {**precision_recall_f1(counts["right"], counts["claimed"], counts["expected"]), **counts}


def text_details(
    rows: Sequence[ScoredRow], output: TextOutput, confidence: float, clusters: Clusters
) -> dict[str, Any]:
    """`corpus` BLEU and chrF; mean `length_ratio`; rates of `repetition` (looping texts) and `refusal`; `form`; with
    output.extract also `extracted`, the rate of answers with a final answer."""
    n, texts, gold = len(rows), [scored_text(row) for row in rows], [str(row["gold"]) for row in rows]
    ratios = [len(text.strip()) / max(1, len(reference.strip())) for text, reference in zip(texts, gold, strict=True)]
    details: dict[str, Any] = {
        "length_ratio": sum(ratios) / n if n else None,
        "repetition": rate([repetition(text) >= REPEATED for text in texts], confidence, clusters),
        "refusal": rate([is_refusal(text) for text in texts], confidence, clusters),
        "form": form_counts(rows),
    }
    if n:
        details["corpus"] = corpus_scores(texts, gold)
    if output.extract:
        extracted = [row["status"] == "ok" and final_answer(row["text"], output.extract) is not None for row in rows]
        details["extracted"] = rate(extracted, confidence, clusters)
    return details


def rate(hits: Sequence[bool], confidence: float, clusters: Clusters = None) -> dict[str, Any]:
    """{k, n, share, interval (Wilson's), design_effect} of the hits."""
    k, n = sum(hits), len(hits)
    interval, effect = (0.0, 1.0), 1.0
    if n:
        units = range(n) if clusters is None else clusters
        interval, effect = clustered_share(list(map(float, hits)), units, confidence)
    return {"k": k, "n": n, "share": k / n if n else None, "interval": list(interval), "design_effect": effect}


def valid_share(
    rows: Sequence[Row], output: AnyOutput, confidence: float = 0.95, clusters: Clusters = None
) -> dict[str, Any]:
    """The :func:`rate` of finished answers in the declared form (answer_rules.form_problems)."""
    return rate([row.valid for row in scored(rows, output)], confidence, clusters)


def form_counts(rows: Sequence[ScoredRow]) -> dict[str, int]:
    """Number of answers that break each rule of form (an answer may break several), and of each status other than `ok`."""
    counts: Counter[str] = Counter()
    for row in rows:
        if row["status"] != "ok":
            counts[row["status"]] += 1
        else:
            counts.update(set(row.broken_rules))
    return dict(sorted(counts.items()))
