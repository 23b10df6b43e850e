"""BASELINE: the base model, and what prompting alone achieves."""

from __future__ import annotations

from finetune_pipeline.assets.node import Node

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
        "Zero- and k-shot prompting of the base model on validation. Good enough already? Then training stops here.",
        ["huggingface", "parquet"],
        GROUP,
        heavy=True,
    ),
]
