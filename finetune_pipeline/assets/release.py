"""RELEASE: the registered model."""

from __future__ import annotations

from finetune_pipeline.assets.node import Node

GROUP = "release"
NODES = [
    Node(
        "model_version",
        ["evaluation_report", "merged_model"],
        "Registered in MLflow as `candidate`; `champion` moves only if every gate passes. Ties do not pass.",
        ["mlflow"],
        GROUP,
    ),
]
