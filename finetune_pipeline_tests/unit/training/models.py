"""Helper: tiny models with something to train whose every part matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from finetune_pipeline.models.loading import load_for_training
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline_tests.unit.models.architectures import MADE

WINDOW = 8


def adapted(
    base: Path, method: str = "lora", compute: torch.dtype = torch.float32, dropout: float = 0.0, **more: Any
) -> Any:
    """`base` with a random LoRA adapter (not PEFT's zero B, which would hide half of the gradients)."""
    model, _ = load_for_training(base, METHODS[method].holds, compute, torch.device("cpu"))
    return _with_lora(model, dropout, **more)


def _with_lora(model: Any, dropout: float = 0.0, **more: Any) -> Any:
    model.requires_grad_(False)
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM", **more
    )
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def architecture(name: str) -> Any:
    """A random model of two or three layers and 400 tokens; gemma3 has sliding windows of :data:`WINDOW` tokens."""
    torch.manual_seed(3)
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 8}
    if name == "gemma3":
        kinds = ["sliding_attention", "full_attention", "sliding_attention"]
        shape |= {"num_hidden_layers": 3, "layer_types": kinds, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}
    return MADE[name](**shape)


class Words:
    """As much of a tokenizer as a soft prompt needs: a token a word."""

    bos_token_id, eos_token_id = 1, 2

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [3 + sum(map(ord, word)) % 390 for word in text.split()]}


def trainable(name: str, method: str) -> Any:
    """A random model of architecture `name` with what `method` trains, in evaluation mode (no dropout)."""
    model = architecture(name)
    if method == "lora":
        return _with_lora(model).eval()
    if method == "full":
        return model.eval()
    model.requires_grad_(False)
    text = "sort the ticket into one of three labels"
    settings = {method: {"tokens": 5 if method == "prefix" else 6, "init": "text", "text": text}}
    return METHODS[method].add(model, Words(), settings, "")[0].eval()
