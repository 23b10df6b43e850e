"""BASELINE: the base model, and what prompting alone achieves."""

from __future__ import annotations

from finetune_pipeline.orchestration.node import Node

GROUP = "baseline"
NODES = [
    Node(
        "base_model",
        [],
        "The untrained model: safetensors, tokenizer and chat template, with digests.",
        ["huggingface", "safetensors"],
        GROUP,
        heavy=True,
    ),
    Node(
        "few_shot_baseline",
        ["train_split", "validation_split", "base_model", "data_quality"],
        "The base model prompted in every way the spec names, on validation; and what no language model is needed for.",
        ["huggingface", "parquet"],
        GROUP,
        heavy=True,
    ),
    Node(
        "advice",
        ["validation_split", "few_shot_baseline"],
        "Is it worth training, and can the test show what it gains? Good enough already: training stops here.",
        ["python"],
        GROUP,
    ),
]
