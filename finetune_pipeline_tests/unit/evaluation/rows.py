"""Prediction rows, specs and metrics for tests of the evaluation functions."""

from collections.abc import Sequence
from typing import Any

import pytest

from finetune_pipeline.evaluation.metrics import METRICS, RowMetric
from finetune_pipeline.spec import outputs
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import LabelsOutput

LABELS = ["bug", "billing", "other"]
OUTPUT = LabelsOutput(labels=LABELS)


def row(i: int, gold: str, text: str, model: str = "base", **changes: Any) -> dict[str, Any]:
    """A prediction row: by default a finished answer whose label scores agree with its text."""
    scores = [-0.1 if label == text else -3.0 for label in LABELS]
    prediction = {"example_id": f"e{i:04d}", "model": model, "gold": gold, "text": text, "status": "ok", "error": ""}
    tokens = {"probability": None, "field_probabilities": [], "new_tokens": 3, "prompt_tokens": 50}
    return prediction | {"label_scores": scores} | tokens | changes


def rows(pairs: Sequence[tuple[str, str]], model: str = "base") -> list[dict[str, Any]]:
    """Rows from (gold, text) pairs."""
    return [row(i, gold, text, model) for i, (gold, text) in enumerate(pairs)]


def answers(
    right: int | Sequence[bool], n: int = 200, model: str = "base", wrong: str | None = None, **changes: Any
) -> list[dict[str, Any]]:
    """Prediction rows. right: Number of right rows, the first of n, or whether each row is right. wrong: Text of wrong rows; by
    default another label."""
    correct = [i < right for i in range(n)] if isinstance(right, int) else right
    pairs = [(LABELS[i % 3], LABELS[i % 3] if ok else wrong or LABELS[(i + 1) % 3]) for i, ok in enumerate(correct)]
    return [row(i, gold, text, model, **changes) for i, (gold, text) in enumerate(pairs)]


def paired(both: int, only_base: int, only_candidate: int, neither: int) -> tuple[list[dict], list[dict]]:
    """Rows of base and candidate, with the numbers of rows that both, only one, or neither answers right."""
    base = [True] * (both + only_base) + [False] * (only_candidate + neither)
    candidate = [True] * both + [False] * only_base + [True] * only_candidate + [False] * neither
    return answers(base), answers(candidate, model="candidate")


def spec(**changes: Any) -> TaskSpec:
    """A spec of a label task."""
    fields = {"name": "triage", "description": "tickets", "system_prompt": "Answer with bug, billing or other."}
    return TaskSpec.model_validate(fields | {"output": {"kind": "labels", "labels": LABELS}} | changes)


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": ["string", "null"]}, "guests": {"type": "integer"}},
    "required": ["city", "guests"],
    "additionalProperties": False,
}


def json_spec(**changes: Any) -> TaskSpec:
    """A spec of an extraction task."""
    return spec(output={"kind": "json", "json_schema": SCHEMA}, **changes)


def text_spec(**changes: Any) -> TaskSpec:
    """A spec of a text task."""
    return spec(output={"kind": "text", "max_new_tokens": 32}, **changes)


class Right(RowMetric):
    """Accuracy."""

    name, kinds, title = "right", ("labels",), "right"

    def row_score(self, row: Any, output: Any) -> float:
        return float(row["text"] == row["gold"])


class Wrong(Right):
    """Error rate."""

    name, higher_is_better = "wrong", False

    def row_score(self, row: Any, output: Any) -> float:
        return 1 - super().row_score(row, output)


def register_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the metrics `right` and `wrong`."""
    for metric in (Right(), Wrong()):
        monkeypatch.setitem(METRICS, metric.name, metric)
        monkeypatch.setitem(outputs.METRICS, metric.name, metric.kinds)
