"""Sections on the answers by label, field and form, and on calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_pipeline.evaluation.answers import INVALID
from finetune_pipeline.evaluation.metrics import METRICS, metric_title
from finetune_pipeline.evaluation.model_scores import Scores
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.wording import number, percent, percent_range, points
from finetune_pipeline.report.blocks import Blocks, Matrix, Table, figure, notes, text
from finetune_pipeline.report.comparison import unsigned

MODELS = {"base": "Base, best prompt", "candidate": "Fine-tuned", "champion": "Champion"}
_RATES = {
    "strict": "JSON as it stands",
    "schema_rate": "Complies with the schema",
    "repaired": "JSON only after repair",
    "extracted": "With a final answer",
    "repetition": "Goes in circles",
    "refusal": "Declines",
}


def _models(evaluation: EvaluationResult) -> Mapping[str, Scores]:
    return {title: evaluation.scores[name] for name, title in MODELS.items() if name in evaluation.scores}


def confusion_section(evaluation: EvaluationResult) -> Blocks:
    """Right against given labels, of the candidate and of the base model."""
    for title, name in (("Fine-tuned", "candidate"), ("Base, best prompt", "base")):
        if confusion := evaluation.scores[name].confusion:
            yield Matrix(title, confusion.labels, confusion.columns, confusion.counts, INVALID)
    if evaluation.task.labels:
        yield from notes(
            "Rows are the right labels, columns what the model said; shades are shares of a row. The last column counts "
            "answers that are no label at all."
        )


def labels_section(evaluation: EvaluationResult) -> Blocks:
    """Precision, recall and F1 of the candidate by label, beside the base model's F1."""
    before = evaluation.scores["base"].per_class
    rows = []
    for label, of in evaluation.scores["candidate"].per_class.items():
        old = before[label].f1
        change = of.f1 - old if of.support and of.f1 is not None and old is not None else None
        rows.append([label, of.precision, of.recall, of.f1, old, change, of.support])
    columns = [("Label", text), ("Precision", number), ("Recall", number), ("F1", number), ("F1, base", number)]
    yield Table([*columns, ("Change, points", points), ("Rows", number)], rows)


def detail_section(evaluation: EvaluationResult) -> Blocks:
    """What only some kinds of output have: fields, form, overlap with the right answer."""
    models = _models(evaluation)
    yield _fields(evaluation)
    yield Table(
        [("Answers", text), ("Model", text), ("Rows", number), ("Share", percent), ("Interval", percent_range)],
        [
            [title, model, rate.k, rate.share, rate.interval]
            for key, title in _RATES.items()
            for model, of in models.items()
            if (rate := getattr(of, key))
        ],
    )
    rules = sorted({rule for of in models.values() for rule in of.form})
    yield Table(
        [("Not in form", text), *((title, number) for title in models)],
        [[rule.replace("_", " "), *(of.form.get(rule, 0) for of in models.values())] for rule in rules],
    )
    yield Table(
        [("Metric", text), ("Model", text), ("Mean", unsigned), ("Interval", figure)],
        [
            [metric_title(name), model, of.metric(name), " to ".join(map(unsigned, interval)) if interval else ""]
            for name, model, of, interval in _overlap(models)
        ],
    )


def _overlap(models: Mapping[str, Scores]) -> Iterator[tuple[str, str, Scores, Any]]:
    for name in [metric.name for metric in METRICS.values() if metric.kinds == ("text",)]:
        for model, of in models.items():
            if of.metric(name) is not None:
                yield name, model, of, of.metric_interval(name)


def _fields(evaluation: EvaluationResult) -> Table:
    """Precision, recall and F1 of the candidate by field, beside the base model's F1."""
    before = evaluation.scores["base"].fields
    names = ("Precision", "Recall", "F1", "F1, base", "Right", "Claimed", "Expected")
    rows = [
        [
            *(field, of.precision, of.recall, of.f1, before[field].f1 if field in before else None),
            *(of.right, of.claimed, of.expected),
        ]
        for field, of in evaluation.scores["candidate"].fields.items()
    ]
    return Table([("Field", text), *((name, number) for name in names)], rows)


def calibration_section(evaluation: EvaluationResult) -> Blocks:
    """How sure each model is of its most likely label, and how often it is right then."""
    rows = [
        [model, c.n, c.confidence, c.accuracy, c.ece, c.brier, c.log_loss]
        for model, of in _models(evaluation).items()
        if (c := of.calibration)
    ]
    columns = [("Model", text), ("Rows", number), ("Mean confidence", percent), ("Right", percent)]
    yield Table([*columns, ("Calibration error, points", unsigned), ("Brier", number), ("Log loss", number)], rows)
    if candidate := evaluation.scores["candidate"].calibration:
        yield Table(
            [("Confidence of the fine-tuned model", text), ("Rows", number), ("Mean", percent), ("Right", percent)],
            [[percent_range((b.low, b.high)), b.n, b.confidence, b.accuracy] for b in candidate.reliability],
        )
    if rows:
        yield from notes(
            "From the likelihoods of the labels, made to sum to 1. Calibration error: mean distance between confidence and "
            "share of right answers over ten bins; Brier: squared distance from the truth, 0 to 2."
        )
