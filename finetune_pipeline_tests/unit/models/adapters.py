"""Helper: an adapter with weights that matter, as training would have saved it."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from finetune_pipeline.models.loading import load_for_prediction


def make_adapter(
    base: Path, folder: Path, *, size: float = 0.05, seed: int = 1, r: int = 4, alpha: int = 8, **more: object
) -> Path:
    """Save a LoRA adapter for `base` whose matrices are random with standard deviation `size`."""
    model = load_for_prediction(base, torch.device("cpu"))
    model = get_peft_model(
        model, LoraConfig(r=r, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM", **more)
    )  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * size
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder
