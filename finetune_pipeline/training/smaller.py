"""Out of memory: the nearest setting that needs less, in the order of what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def nearest_smaller(job: Mapping[str, Any]) -> str:
    """One sentence for people: which key of task.yaml to change, and what that costs, for a job of :mod:`.jobs`."""
    if job.get("action") == "train":
        return _training(job["settings"])
    batch = job.get("batch_size")
    if batch is not None and batch > 1:
        return f"set baseline.batch_size: {batch // 2} (now {batch}); the answers stay the same, it takes longer"
    return "use a machine with more memory, or a smaller base_model"


def _training(settings: Mapping[str, Any]) -> str:
    micro, batch, method = settings["micro_batch_size"], settings["batch_size"], settings["method"]
    if micro > 1:
        less = max(n for n in range(1, micro) if batch % n == 0)
        return f"set training.micro_batch_size: {less} (now {micro}); what is learned stays the same, it takes longer"
    if method != "prefix" and settings["gradient_checkpointing"] is not True:
        return "set training.gradient_checkpointing: true; about a third slower"
    if method == "qlora" and settings["unquantized_epochs"]:
        return (
            "set training.unquantized_epochs: 0, which leaves the base in four bits throughout (small bases lose some of "
            "what they learned when they are merged)"
        )
    if method == "full":
        return "set training.method: lora, which keeps gradients and optimiser states for a hundredth of the weights"
    if method in ("lora", "prefix", "prompt"):
        return "set training.method: qlora and training.unquantized_epochs: 0, which hold the base in four bits"
    if settings["max_tokens"] > 256:
        return (
            f"set training.max_tokens: {settings['max_tokens'] // 2} (now {settings['max_tokens']}), and "
            "training.over_length: truncate_prompt or drop"
        )
    return "use a machine with more memory, or a smaller base_model"
