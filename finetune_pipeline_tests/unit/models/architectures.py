"""Tiny random models of many architectures, and LoRA adapters for them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from finetune_pipeline_tests.tiny_model import make_tiny_tokenizer

_SPECIAL_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
_COMMON = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
_HEADS = {"head_dim": 16}
_MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bloom": ("BloomConfig", "BloomForCausalLM", {"hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "deepseek_v3": (
        "DeepseekV3Config", "DeepseekV3ForCausalLM",
        _COMMON | {
            "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "v_head_dim": 16,
            "qk_rope_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
            "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
        },
    ),
    "falcon": (
        "FalconConfig", "FalconForCausalLM",
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512},
    ),
    "falcon_h1": (
        "FalconH1Config", "FalconH1ForCausalLM",
        _COMMON | {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16},
    ),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", _COMMON | _HEADS),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", _COMMON | _HEADS | _MIXED),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", _COMMON | _HEADS | _MIXED),
    "gemma3_with_images": ("Gemma3Config", "Gemma3ForConditionalGeneration", _COMMON | _HEADS | _MIXED),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 64, "n_layer": 2, "n_head": 4}),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", _COMMON),
    "gpt_oss": (
        "GptOssConfig", "GptOssForCausalLM",
        _COMMON | _HEADS | _MIXED | {
            "num_local_experts": 4, "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "lfm2": (
        "Lfm2Config", "Lfm2ForCausalLM",
        _COMMON | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    ),
    "llama": ("LlamaConfig", "LlamaForCausalLM", _COMMON),
    "mamba": ("MambaConfig", "MambaForCausalLM", {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}),
    "mistral": ("MistralConfig", "MistralForCausalLM", _COMMON | _HEADS | {"sliding_window": 16}),
    "mixtral": (
        "MixtralConfig", "MixtralForCausalLM",
        _COMMON | _HEADS | {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "mpt": ("MptConfig", "MptForCausalLM", {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 512}),
    "nemotron": ("NemotronConfig", "NemotronForCausalLM", _COMMON),
    "opt": (
        "OPTConfig", "OPTForCausalLM",
        {
            "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "max_position_embeddings": 512, "word_embed_proj_dim": 64,
        },
    ),
    "phi": ("PhiConfig", "PhiForCausalLM", _COMMON),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", _COMMON),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _COMMON),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _COMMON | _HEADS),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", _COMMON | _HEADS | _EXPERTS),
    "qwen3_next": (
        "Qwen3NextConfig", "Qwen3NextForCausalLM",
        _COMMON | _HEADS | _EXPERTS | {
            "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
            "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
            "shared_expert_intermediate_size": 32,
        },
    ),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", _COMMON | {"no_rope_layers": [1, 0]}),
    "stablelm": ("StableLmConfig", "StableLmForCausalLM", _COMMON),
}  # fmt: skip
"""Configuration class, model class and settings. Sliding windows are shorter than the tests' prompts."""
_IMAGES = {
    "vision_config": {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14,
    },
    "mm_tokens_per_image": 4, "boi_token_index": 396, "eoi_token_index": 397, "image_token_index": 398,
}  # fmt: skip


def random_model(architecture: str, **settings: Any) -> Any:
    """A random model with a vocabulary of 400 tokens. settings: Changes to the configuration."""
    config, model, defaults = _SETTINGS[architecture]
    values = {"vocab_size": 400, "initializer_range": 0.15, **_SPECIAL_TOKENS, **defaults, **settings}
    if architecture.endswith("_with_images"):
        values = {"text_config": values, "tie_word_embeddings": values.get("tie_word_embeddings", True), **_IMAGES}
    return getattr(transformers, model)(getattr(transformers, config)(**values))


def make_model(
    folder: Path, architecture: str, *, dtype: torch.dtype = torch.float32, tied: bool = True, norms: float = 0.0,
    **settings: Any,
) -> Path:  # fmt: skip
    """Save a random model with tokenizer and chat template. Returns `folder`.

    norms: Standard deviation of noise added to the weights of norms. settings: Changes to the configuration.
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
    """Save a random LoRA adapter for `base`. size: Standard deviation of its matrices. settings: Changes to its configuration."""
    defaults = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    model = get_peft_model(load(base, "auto"), LoraConfig(**defaults | settings))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * size
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder
