"""PRODUCTION: logs in, drift, and whether to train again."""

from __future__ import annotations

from finetune_pipeline.orchestration.node import Node

GROUP = "production"
NODES = [
    Node(
        "production_logs",
        [],
        "Complete log lines, scrubbed, users hashed; corrections become examples.",
        ["jsonl"],
        GROUP,
    ),
    Node(
        "drift_report",
        ["production_logs", "train_split"],
        "Has production moved away from the training data?",
        ["scipy"],
        GROUP,
    ),
    Node(
        "retraining_decision",
        ["drift_report", "production_logs", "model_version"],
        "Train again, or wait: a sentence with its reasons.",
        ["python"],
        GROUP,
    ),
]
