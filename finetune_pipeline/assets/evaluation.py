"""EVALUATION: the sealed test and the report."""

from __future__ import annotations

from finetune_pipeline.orchestration.node import Node

GROUP = "evaluation"
NODES = [
    Node(
        "base_ability",
        ["base_model"],
        "What the base model can do besides the task: items with choices, and plain text, by likelihood.",
        ["huggingface"],
        GROUP,
        heavy=True,
    ),
    Node(
        "general_ability",
        ["base_ability", "merged_model"],
        "The same items under the candidate: what training took away, with its interval.",
        ["huggingface", "scipy"],
        GROUP,
        heavy=True,
    ),
    Node(
        "test_predictions",
        ["test_split", "base_model", "merged_model", "few_shot_baseline", "production_logs"],
        "Base (best prompt), candidate and champion on the same sealed rows, and on recent production rows.",
        ["parquet", "huggingface"],
        GROUP,
        heavy=True,
    ),
    Node(
        "human_review",
        ["test_predictions"],
        "What people said of the answers, side by side and blind: `finetune review`. Nothing yet is an answer too.",
        ["python"],
        GROUP,
    ),
    Node(
        "judge_review",
        ["test_predictions", "human_review"],
        "Base and candidate compared by a language model, once it agrees with people, and by embeddings. Off unless the "
        "spec names them.",
        ["openai"],
        GROUP,
    ),
    Node(
        "evaluation_report",
        [
            "test_predictions",
            "few_shot_baseline",
            "advice",
            "adapter",
            "merged_model",
            "general_ability",
            "human_review",
            "judge_review",
        ],
        "Scores with intervals, paired comparison, gates, failures; as HTML, Markdown and JSON.",
        ["html", "markdown"],
        GROUP,
    ),
]
