"""How fast training computes, against what a plain matrix product reaches on the same device in the same process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from finetune_pipeline.training.attention import Layout


def matrix_product_rate(dtype: torch.dtype, device: torch.device, size: int = 1024, repeats: int = 8) -> float:
    """FLOP/s of the fastest of `repeats` products of two `size` x `size` matrices; on the CPU per second of processor
    time of the calling thread times torch's threads, so that other processes do not count."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    best = float("inf")
    for _ in range(repeats):
        _wait(device)
        began = clock()
        a @ b
        _wait(device)
        best = min(best, clock() - began)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class ModelShape:
    """What the arithmetic of a step depends on.

    frozen, trained: weights of linear layers without and with a gradient of their own (an adapter's matrices are trained,
    what they stand beside is frozen); head: weights of the output layer, and whether it is trained; heads_width: heads
    times head width, summed over layers.
    """

    frozen: int
    trained: int
    head: int
    head_trained: bool
    heads_width: int

    def flops(self, tokens: int, learned: int, pairs: int) -> int:
        """FLOPs of forward and backward pass by the usual count of 2 a weight and token (Kaplan et al. 2020, section
        2.1): forward 2, gradient of the input 2, gradient of a trained weight 2. `pairs`: query-key pairs that are seen,
        each 2 products forward and 4 backward. Recomputed activations do not count: these are the model's FLOPs.
        """
        linear = tokens * (4 * self.frozen + 6 * self.trained)
        head = learned * self.head * (6 if self.head_trained else 4)
        return linear + head + 12 * pairs * self.heads_width


def model_shape(model: Any) -> ModelShape:
    """Counts the linear layers of a model, 4-bit ones and LoRA matrices included."""
    head = model.get_output_embeddings()
    frozen = trained = 0
    for module in model.modules():
        if not isinstance(module, torch.nn.Linear) or module is head:
            continue
        state = getattr(module.weight, "quant_state", None)
        size = state.shape.numel() if state is not None else module.weight.numel()
        if module.weight.requires_grad:
            trained += size
        else:
            frozen += size
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelShape(
        frozen,
        trained,
        head.weight.numel(),
        head.weight.requires_grad,
        config.num_hidden_layers * config.num_attention_heads * width,
    )


def seen_pairs(batch: dict[str, Any]) -> int:
    """Query-key pairs of a batch in which the query sees the key (sliding windows left aside)."""
    layout: Layout | None = batch.get("shared_prefix")
    if layout is None:
        lengths: list[int] = batch["attention_mask"].sum(1).tolist()
        return sum(n * (n + 1) // 2 for n in lengths)
    total = 0
    for i, n in enumerate(layout.lengths):
        before = layout.virtual + sum(layout.lengths[a] for a in layout.ancestors(i))
        total += n * before + n * (n + 1) // 2
    return total


@dataclass
class Meter:
    """Adds up what training steps compute and how long they take, validation and saving left aside."""

    shape: ModelShape
    steps: int = 0
    tokens: int = 0
    learned: int = 0
    flops: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def add(self, batch: dict[str, Any], seconds: float, cpu_seconds: float) -> None:
        """One forward and backward pass on `batch`."""
        tokens = batch["position_ids"].numel() if "position_ids" in batch else batch["input_ids"].numel()
        learned = batch["labels"].numel()
        self.tokens += tokens
        self.learned += learned
        self.flops += self.shape.flops(tokens, learned, seen_pairs(batch))
        self.seconds += seconds
        self.cpu_seconds += cpu_seconds

    def facts(self, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        """tokens, learned, flops, seconds and cpu_seconds of all passes, tokens_per_second, flops_per_second (on the CPU
        per second of processor time and thread, else of wall clock), matrix_product_rate, and utilisation, the ratio."""
        spent = self.cpu_seconds if device.type == "cpu" else self.seconds
        peak = matrix_product_rate(dtype, device)
        if device.type == "cpu":
            peak /= torch.get_num_threads()
        rate = self.flops / spent if spent else 0.0
        return {
            "tokens": self.tokens,
            "learned": self.learned,
            "flops": self.flops,
            "seconds": round(self.seconds, 2),
            "cpu_seconds": round(self.cpu_seconds, 2),
            "tokens_per_second": round(self.tokens / self.seconds, 1) if self.seconds else 0.0,
            "flops_per_second": round(rate),
            "matrix_product_rate": round(peak),
            "utilisation": round(round(rate) / round(peak), 3),
        }
