"""What the same training rows give without any language model: a linear model of the words, and copying the nearest row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.evaluation.linear_baseline import tfidf_logistic
from finetune_pipeline.evaluation.metrics import score
from finetune_pipeline.evaluation.neighbours import Neighbours, Trained
from finetune_pipeline.spec.model import TaskSpec


def without_llm(spec: TaskSpec, train: Sequence[Example], validation: Sequence[Example]) -> dict[str, dict[str, Any]]:
    """Scores on all of `validation`: `nearest` answers as the training example most like the row; `linear` is TF-IDF with
    logistic regression (label tasks). Each: n, correct, accuracy, interval, primary. Empty where answers call tools, whose
    text is made by a chat template."""
    if any(e.messages[-1].get("tool_calls") for e in [*train, *validation]):
        return {}
    texts = [e.user_text for e in validation]
    near = Neighbours([Trained(e.id, e.user_text, e.answer) for e in train]).nearest_each(texts, 1)
    answers = {"nearest": [found[0].answer if found else "" for found in near]}
    if spec.labels:
        answers["linear"] = tfidf_logistic(
            [e.user_text for e in train], [e.answer for e in train], texts, seed=spec.split.seed
        )
    return {name: _scores(spec, validation, said) for name, said in answers.items()}


def _scores(spec: TaskSpec, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, Any]:
    rows: list[Mapping[str, Any]] = [
        {
            "example_id": e.id,
            "gold": e.answer,
            "text": text,
            "status": "ok" if text.strip() else "empty",
            "label_scores": [],
        }
        for e, text in zip(examples, answers, strict=True)
    ]
    told = score(rows, spec.output, spec.gates.confidence, spec.metric)
    return {name: told[name] for name in ("n", "correct", "accuracy", "interval", "primary")}
