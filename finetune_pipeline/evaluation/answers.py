"""From what a model said to the label it means. Strict, because production gets the raw string."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.data.answer_rules import NOT_JSON, repaired, strict
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput, LabelsOutput

INVALID = "invalid"
"""Name of the extra column of a confusion matrix: answers outside the label set. Never a label (see spec rules)."""


def parse_answer(text: str, labels: Sequence[str]) -> str | None:
    """The label `text` is, once surrounding blanks are stripped; None when it is not exactly one of `labels`.

    Case, quotes, a trailing period or an explanation make an answer invalid: whoever calls the model in production
    receives the raw string, and a score that repairs answers would promise more than they get.
    """
    stripped = text.strip()
    return stripped if stripped in labels else None


def answer_of(row: Mapping[str, Any], labels: Sequence[str]) -> str | None:
    """The label a prediction row answers with. None (invalid) for any status but `ok`: a truncated answer that happens
    to read as a label has not ended, and an empty or failed one has not been given."""
    return parse_answer(row["text"], labels) if row["status"] == "ok" else None


def likelihood_label(label_scores: Sequence[float], labels: Sequence[str]) -> str | None:
    """The label with the highest log-likelihood: the answer constrained decoding would give.

    Ties go to the earlier label. None when there are no scores, one is NaN, or all are minus infinity. Raises
    ValueError when the number of scores is not the number of labels.
    """
    if not label_scores:
        return None
    if len(label_scores) != len(labels):
        raise ValueError(f"{len(label_scores)} label scores for {len(labels)} labels")
    if any(math.isnan(score) for score in label_scores) or max(label_scores) == -math.inf:
        return None
    return labels[max(range(len(labels)), key=lambda i: label_scores[i])]


def likelihood_rows(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """The same rows, answering with the most likely label instead of the generated text (empty where there is none).

    A row whose generation failed (status error) stays failed.
    """
    answered = []
    for row in rows:
        label = None if row["status"] == "error" else likelihood_label(row["label_scores"], labels)
        status = "error" if row["status"] == "error" else ("empty" if label is None else "ok")
        answered.append({**row, "text": label or "", "status": status})
    return answered


def lenient_rows(rows: Sequence[Mapping[str, Any]], output: AnyOutput) -> list[dict[str, Any]]:
    """The same rows, their finished answers read as leniently as a few lines of code around the model could.

    Labels: the one label the text names, whatever its case; none where it names several. JSON: the value a lenient
    parser finds. Other answers stay as they are.
    """
    return [
        {**row, "text": _read_leniently(row["text"], output)} if row["status"] == "ok" else dict(row) for row in rows
    ]


def _read_leniently(text: str, output: AnyOutput) -> str:
    if isinstance(output, LabelsOutput):
        named = [label for label in output.labels if f" {_words(label)} " in f" {_words(text)} "]
        longest = [
            label for label in named if not any(_words(label) in _words(other) for other in named if other != label)
        ]
        return longest[0] if len(longest) == 1 else text
    if isinstance(output, JsonOutput) and strict(text) is NOT_JSON:
        value = repaired(text)
        return text if value is NOT_JSON else json.dumps(value, ensure_ascii=False)
    return text


def _words(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()
