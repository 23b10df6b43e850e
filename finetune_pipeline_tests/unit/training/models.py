"""Helper: tiny models with an adapter whose both matrices matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from finetune_pipeline.models.loading import load_for_training


def adapted(
    base: Path, method: str = "lora", compute: torch.dtype = torch.float32, dropout: float = 0.0, **more: Any
) -> Any:
    """`base` with a random LoRA adapter (not PEFT's zero B, which would hide half of the gradients)."""
    model, _ = load_for_training(base, method, compute, torch.device("cpu"))
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM", **more
    )
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model
