"""EVALUATION: the sealed test and the report."""

from __future__ import annotations

from finetune_pipeline.assets.node import Node

GROUP = "evaluation"
NODES = [
    Node(
        "test_predictions",
        ["test_split", "base_model", "merged_model", "few_shot_baseline"],
        "Base (best prompt), candidate and champion on the same sealed rows.",
        ["parquet", "huggingface"],
        GROUP,
        heavy=True,
    ),
    Node(
        "evaluation_report",
        ["test_predictions", "few_shot_baseline", "adapter", "merged_model"],
        "Scores with intervals, paired comparison, gates, failures; as HTML, Markdown and JSON.",
        ["html", "markdown"],
        GROUP,
    ),
]
