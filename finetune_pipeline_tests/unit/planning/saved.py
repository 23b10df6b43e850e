"""Helper: what a forward pass keeps for its backward pass, counted by PyTorch itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from finetune_pipeline.training.fused import token_losses
from finetune_pipeline.training.shared_prefix import logits_to_learn


def saved_tensors(
    model: Any, batch: dict[str, Any], autocast: torch.dtype | None
) -> tuple[int, list[tuple[str, tuple[int, ...], int]]]:
    """(bytes of the storages that are kept and are no parameters', [(dtype, shape, bytes)] of each), up to the loss."""
    held = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, tuple[str, tuple[int, ...], int]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), storage.nbytes())
        return tensor

    unpack: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor  # noqa: E731
    alive = []
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        low = torch.autocast("cpu", dtype=autocast) if autocast else torch.autocast("cpu", enabled=False)
        with low:
            logits = logits_to_learn(model, batch)
        alive.append(token_losses(logits, batch["labels"]).sum())
    return sum(size for _, _, size in kept.values()), sorted(kept.values(), key=lambda t: -t[2])
