"""TRAINING: plan, adapter, merged model."""

from __future__ import annotations

from finetune_pipeline.orchestration.node import Node

GROUP = "training"
NODES = [
    Node(
        "training_plan",
        ["train_split", "validation_split", "base_model"],
        "Exact token counts, steps, memory, time and money; whether it fits, and the nearest plan that does.",
        ["python"],
        GROUP,
    ),
    Node(
        "adapter",
        ["train_split", "validation_split", "base_model", "advice", "training_plan"],
        "What training.method trains, in a process of its own, on the assistant's tokens only; best checkpoint kept.",
        ["pytorch", "huggingface"],
        GROUP,
        heavy=True,
    ),
    Node(
        "merged_model",
        ["adapter", "base_model"],
        "The model that is served, compared with the one trained: merged (qlora, lora), taken over (full), with added tokens "
        "(prompt), or the base behind its adapter (prefix).",
        ["safetensors", "huggingface"],
        GROUP,
        heavy=True,
    ),
]
