"""TRAINING: plan, adapter, merged model."""

from __future__ import annotations

from finetune_pipeline.assets.node import Node

GROUP = "training"
NODES = [
    Node(
        "training_plan",
        ["train_split", "validation_split", "base_model"],
        "Exact token counts, steps, and the memory the training will take.",
        ["python"],
        GROUP,
    ),
    Node(
        "adapter",
        ["train_split", "validation_split", "base_model", "few_shot_baseline", "training_plan"],
        "Low-rank adapter trained in its own process, on the assistant's tokens only; best checkpoint kept.",
        ["pytorch", "huggingface"],
        GROUP,
        heavy=True,
    ),
    Node(
        "merged_model",
        ["adapter", "base_model"],
        "Adapter merged into the unquantized base, and compared with it.",
        ["safetensors", "huggingface"],
        GROUP,
        heavy=True,
    ),
]
