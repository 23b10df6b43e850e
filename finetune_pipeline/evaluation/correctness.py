"""Parses an answer and decides whether it is correct and in the declared form. Strict, because production gets the raw string."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.data.answer_equality import same_answer
from finetune_pipeline.data.answer_rules import (
    NOT_JSON,
    canonical,
    claims,
    form_problems,
    repaired,
    schema_of,
    schema_problems,
    strict,
)
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput, LabelsOutput

Row = Mapping[str, Any]
"""A row of predictions.PREDICTION_SCHEMA."""
INVALID = "invalid"
"""Name of the confusion matrix column for answers outside the label set. The spec's rules forbid it as a label."""


def answer_of(row: Mapping[str, Any], labels: Sequence[str]) -> str | None:
    """The label that a prediction row answers; None (invalid) if its stripped text is no label.

    Production receives the raw string, so a score must not repair answers. Any status but `ok` is invalid: a
    truncated answer that looks like a label has not ended.
    """
    stripped = row["text"].strip()
    return stripped if row["status"] == "ok" and stripped in labels else None


def likelihood_label(label_scores: Sequence[float], labels: Sequence[str]) -> str | None:
    """The label with the highest log-likelihood: the answer constrained decoding would give. Ties go to the earlier label.

    None if there are no scores, one is NaN, or all are minus infinity. Raises ValueError unless there is one score per label.
    """
    if not label_scores:
        return None
    if len(label_scores) != len(labels):
        raise ValueError(f"{len(label_scores)} label scores for {len(labels)} labels")
    if any(math.isnan(score) for score in label_scores) or max(label_scores) == -math.inf:
        return None
    return labels[max(range(len(labels)), key=lambda i: label_scores[i])]


def label_probability(text: str, label_scores: Sequence[float], labels: Sequence[str]) -> float | None:
    """Return the probability of the answered label among the allowed ones; None if the answer is not the likeliest of them: what is
    written is served, and another answer than the likeliest label is never sure."""
    label = likelihood_label(label_scores, labels)
    if label is None or text.strip() != label:
        return None
    highest = max(label_scores)
    return 1 / math.fsum(math.exp(score - highest) for score in label_scores)


def likelihood_row(row: Row, labels: Sequence[str]) -> Row:
    """The same row with the most likely label as the answer (empty if there is none). A failed row stays failed."""
    label, status = None, row["status"]
    if status != "error":
        label = likelihood_label(row["label_scores"], labels)
        status = "empty" if label is None else "ok"
    return {**row, "text": label or "", "status": status}


def scored_text(row: Row) -> str:
    """The scored text: the generated one, even if truncated at the token limit; empty if generation failed."""
    return "" if row["status"] == "error" else str(row["text"])


def is_valid(row: Row, output: AnyOutput) -> bool:
    """Whether an answer is finished and in the declared form."""
    return row["status"] == "ok" and not form_problems(row["text"], output)


def is_right(row: Row, output: AnyOutput) -> bool:
    """Whether an answer equals the reference. Failed, empty and truncated answers never do.

    See `same_answer`; JSON is parsed strictly unless the spec accepts repaired answers.
    """
    if row["status"] != "ok":
        return False
    if isinstance(output, LabelsOutput):
        return bool(answer_of(row, output.labels) == row["gold"])
    if isinstance(output, JsonOutput):
        return read_json(row, output).right
    return same_answer(row["text"], row["gold"], output)


@dataclass(frozen=True, slots=True)
class JsonRow:
    """An answer parsed as JSON, and its reference.

    Attributes:
        parse: How the answer was parsed: strict, repaired, or none.
        claimed, gold: The claims of answer and reference (answer_rules.claims).
        same: Whether the answer's value is the reference's; right: and production accepts it as it is.
    """

    parse: str
    value: Any
    claimed: dict[str, Counter[str]]
    gold: dict[str, Counter[str]]
    same: bool
    right: bool

    def counts(self) -> tuple[int, int, int]:
        """(right, claimed, expected) claims, over all fields."""
        right = sum((values & self.gold.get(field, Counter())).total() for field, values in self.claimed.items())
        return right, _total(self.claimed), _total(self.gold)


def _total(values_by_field: Mapping[str, Counter[str]]) -> int:
    return sum(values.total() for values in values_by_field.values())


def read_json(row: Row, output: JsonOutput) -> JsonRow:
    """Parse the answer of a prediction row as JSON. Repairs truncated or invalid JSON, to separate errors of form from errors of
    content; a repaired answer claims nothing unless the spec accepts it."""
    gold = strict(row["gold"])
    if gold is NOT_JSON:
        raise ValueError(f"the gold answer of example {row['example_id']} is not JSON")
    value = strict(row["text"]) if row["status"] == "ok" else NOT_JSON
    parse = "strict" if value is not NOT_JSON else "none"
    if value is NOT_JSON and row["status"] in ("ok", "truncated"):
        value = repaired(row["text"])
        parse = "repaired" if value is not NOT_JSON else "none"
    accepted = parse == "strict" or (parse == "repaired" and output.accept_repaired and row["status"] == "ok")
    unordered = frozenset(output.unordered)
    same = value is not NOT_JSON and canonical(value, unordered) == canonical(gold, unordered)
    return JsonRow(
        parse=parse,
        value=None if value is NOT_JSON else value,
        claimed=claims(value, unordered) if accepted else {},
        gold=claims(gold, unordered),
        same=same,
        right=same and accepted,
    )


def complies(extraction: JsonRow, output: JsonOutput) -> bool:
    """Whether an answer is JSON as it stands, and fits the schema."""
    return extraction.parse == "strict" and not schema_problems(extraction.value, schema_of(output))
