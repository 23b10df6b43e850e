"""The evaluation report as JSON, for programs: the same content as the pages, under names that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.gates import GateResult, verdict
from finetune_pipeline.report.next_steps import next_steps
from finetune_pipeline.report.sentences import caveats, verdict_sentences

SCHEMA_VERSION = 2
"""Raised when a key goes or changes its meaning; new keys may come at any time."""
_TAKEN = (
    "metric",
    "confidence",
    "n",
    "models",
    "scores",
    "restricted",
    "base_at_its_best",
    "decisions",
    "format_gap",
    "comparisons",
    "regressions",
    "fixes",
    "wrong_answers",
    "atlas",
    "history",
    "never_break",
    "robustness",
    "production",
    "ability",
    "people",
    "judge",
    "similarity",
    "data",
    "quality",
    "supervision",
    "cost",
    "seal",
    "parity",
)


def render_json(evaluation: Mapping[str, Any], gates: Sequence[GateResult]) -> dict[str, Any]:
    """The report as plain JSON values; docs/report.md tells the keys.

    evaluation: as evaluate_run.evaluate_task returns it, so strict JSON; what was not measured is null.
    """
    answer, sentence = verdict_sentences(evaluation, gates)
    training = evaluation["training"]
    return {
        "schema_version": SCHEMA_VERSION,
        "task": evaluation["task"],
        "verdict": {
            "decision": verdict(gates),
            "passed": verdict(gates) == "promote",
            "answer": answer,
            "sentence": sentence,
            "caveats": caveats(evaluation),
        },
        "gates": [gate.to_dict() for gate in gates],
        "next_steps": next_steps(evaluation, gates),
        **{key: evaluation.get(key) for key in _TAKEN},
        "learning_curve": training.get("history") or [],
        "training": {key: value for key, value in training.items() if key not in ("history", "adapter_tensors")},
        "lineage": evaluation["versions"],
    }
