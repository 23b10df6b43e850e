"""Memory a training takes, by formula. All figures in bytes.

Weights: 4-bit NormalFloat with double quantization takes 0.5 byte a parameter plus 0.127 bit of constants (Dettmers et
al. 2023, section 3); what is not a linear layer stays in 16 bits. Adapter: float32 weights, gradients, and two moments
of AdamW. Activations: per layer and token, the tensors a transformer block keeps for its backward pass (Korthikanti et
al. 2022, with the attention matrix left to the fused kernel). Logits only where there is loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OVERHEAD = 900 * 2**20
"""Interpreter, libraries and allocator slack of a training process on CPU, as measured with the bundled model."""


def linear_parameters(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """(input, output) width of the linear layers of one block, from a Llama-like config.json."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    kv = config.get("num_key_value_heads") or heads
    return {
        "q": (hidden, heads * head),
        "k": (hidden, kv * head),
        "v": (hidden, kv * head),
        "o": (heads * head, hidden),
        "gate": (hidden, inner),
        "up": (hidden, inner),
        "down": (inner, hidden),
    }


def estimate(
    config: Mapping[str, Any],
    *,
    method: str,
    rank: int,
    tokens_in_batch: int,
    loss_tokens_in_batch: int,
    bytes_per_value: int,
) -> dict[str, int]:
    """Peak memory of a LoRA or QLoRA training.

    tokens_in_batch: of one forward pass; loss_tokens_in_batch: positions with loss in it; bytes_per_value: of
    activations (4: float32, 2: bfloat16). Returns bytes {weights, adapter, activations, logits, overhead, total} and
    the trainable parameters.
    """
    layers, hidden, vocabulary = config["num_hidden_layers"], config["hidden_size"], config["vocab_size"]
    shapes = linear_parameters(config)
    linear = layers * sum(i * o for i, o in shapes.values())
    embedding = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    trainable = layers * rank * sum(i + o for i, o in shapes.values())
    weights = embedding * 2 + int(linear * (0.5 + 0.127 / 8) if method == "qlora" else linear * 2)
    per_token = sum(i + 2 * rank for i, _ in shapes.values()) + 4 * hidden + 2 * config["intermediate_size"]
    parts = {
        "weights": weights,
        "adapter": trainable * 16,
        "activations": layers * tokens_in_batch * per_token * bytes_per_value,
        # logits in the compute type, a float32 copy for the loss, and its gradient
        "logits": loss_tokens_in_batch * vocabulary * (bytes_per_value + 8),
        "overhead": OVERHEAD,
    }
    return {**parts, "total": sum(parts.values()), "trainable_parameters": trainable}
