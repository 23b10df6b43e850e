"""Helper: tiny random models of several architectures with the tests' tokenizer, and adapters on them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from finetune_pipeline_tests.tiny_model import make_tiny_tokenizer

_ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
_COMMON = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
_HEADS = {"head_dim": 16}
_SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", _COMMON),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _COMMON),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _COMMON | _HEADS),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", _COMMON | _HEADS),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", _COMMON | _HEADS),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", _COMMON | _HEADS | {"sliding_window": 256}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 64, "n_layer": 2, "n_head": 4}),
}


def random_model(architecture: str, **settings: Any) -> Any:
    """A random model of 400 tokens. settings: of its configuration."""
    config, model, usual = _SETTINGS[architecture]
    whole = {"vocab_size": 400, "initializer_range": 0.15, **_ENDS, **usual, **settings}
    return getattr(transformers, model)(getattr(transformers, config)(**whole))


def make_model(
    folder: Path, architecture: str, *, dtype: torch.dtype = torch.float32, tied: bool = True, norms: float = 0.0,
    **settings: Any,
) -> Path:  # fmt: skip
    """Save a random model of the architecture, with tokenizer and chat template.

    norms: how far the weights of norms are from what they begin with. settings: of the configuration.
    """
    torch.manual_seed(0)
    model = random_model(architecture, tie_word_embeddings=tied, **settings).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if norms and "norm" in name:
                parameter.add_(torch.randn(parameter.shape) * norms)
    model.save_pretrained(folder)
    make_tiny_tokenizer(folder)
    return folder


def load(folder: Path, dtype: torch.dtype | str = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def with_adapter(base: Path, adapter: Path, dtype: torch.dtype = torch.float32) -> PeftModel:
    return PeftModel.from_pretrained(load(base, dtype), adapter).eval()


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor | None = None) -> torch.Tensor:
    return model(input_ids=torch.arange(5, 60)[None] if ids is None else ids).logits.float()


def make_adapter(base: Path, folder: Path, *, size: float = 0.05, **settings: Any) -> Path:
    """Save a LoRA adapter for `base` whose matrices are random with standard deviation `size`. settings: of LoRA."""
    usual = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    model = get_peft_model(load(base, "auto"), LoraConfig(**usual | settings))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * size
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder
