"""Makes the model that is trained, for each method: what is frozen, what is added, and where it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file

from finetune_pipeline.data.examples import Example
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.loading import load_for_training
from finetune_pipeline.spec.method_defaults import SOFT_PROMPTS
from finetune_pipeline.training.saving import ADAPTER_FILE
from finetune_pipeline.training.soft_prompts import add_soft_prompt, first_text

_CHECKPOINT_ABOVE = 1_000_000_000


@dataclass
class Built:
    """A model ready to be trained. weights: facts about the base's (loading.weight_facts); autocast: the dtype its float32
    weights are computed in (None: in the dtype they have); checkpointing and why; begun: facts about the first values."""

    model: Any
    weights: dict[str, Any]
    autocast: torch.dtype | None = None
    checkpointing: bool = False
    checkpointing_why: str = ""
    begun: dict[str, Any] = field(default_factory=dict)


def build(
    base: Path,
    settings: dict[str, Any],
    compute: torch.dtype,
    device: torch.device,
    tokenizer: Any,
    train: Sequence[Example],
    start_from: Path | None = None,
) -> Built:
    """Load the base for ``settings["method"]`` and add what is trained.

    start_from: adapter folder whose weights a low-rank adapter begins with. train: the training examples, from whose
    system prompt and labels a soft prompt may begin. Raises JobError for settings that cannot be used together.
    """
    method = settings["method"]
    model, weights = load_for_training(base, method, compute, device)
    built = Built(model, weights)
    built.checkpointing, built.checkpointing_why = _checkpointing(settings, weights["parameters"])
    if method == "full":
        built.autocast = compute if compute != torch.float32 else None
    elif method in SOFT_PROMPTS:
        section = settings[method]
        labels = [e.label for e in train if e.label is not None]
        text = first_text(section["init"], section["text"], (e.messages for e in train), labels)
        if section["init"] == "task" and text is None:
            raise JobError(
                f"training.{method}.init is `task`, but the examples have neither a system prompt nor labels\n"
                f"fix: set training.{method}.init: text and training.{method}.text"
            )
        built.model = add_soft_prompt(model, tokenizer, method, section, text)
        built.begun = {"virtual_tokens": section["tokens"], "init": section["init"], "text": text}
    else:
        built.model = _with_low_rank(model, settings["lora"])
        if start_from is not None:
            _begin_with(built.model, start_from)
    return built


def _checkpointing(settings: dict[str, Any], parameters: int) -> tuple[bool, str]:
    wanted = settings["gradient_checkpointing"]
    if settings["method"] == "prefix":
        if wanted is True:
            raise JobError(
                "prefix tuning does not work with gradient checkpointing\n"
                "fix: set training.gradient_checkpointing: false, or use another method"
            )
        return False, "never with prefix tuning, whose prefix lies in the key-value cache"
    if wanted == "auto":
        large = parameters > _CHECKPOINT_ABOVE
        return large, f"the base has {'over' if large else 'at most'} {_CHECKPOINT_ABOVE // 10**9}B parameters"
    return bool(wanted), "as training.gradient_checkpointing says"


def _with_low_rank(base: Any, lora: dict[str, Any]) -> Any:
    """A PEFT model with float32 LoRA weights on `base`; the output head is left out, as PEFT's all-linear does."""
    target = lora["target_modules"]
    config = LoraConfig(
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        use_rslora=lora["rslora"],
        use_dora=lora["dora"],
        init_lora_weights=True if lora["init"] == "default" else lora["init"],
        task_type="CAUSAL_LM",
        target_modules=target if isinstance(target, str) else list(target),
    )
    return get_peft_model(base, config)


def _begin_with(model: Any, adapter: Path) -> None:
    """Put an earlier adapter's weights into the fresh one. Raises JobError if the two do not have the same tensors."""
    from peft import get_peft_model_state_dict

    tensors = load_file(adapter / ADAPTER_FILE)
    shapes = {name: t.shape for name, t in get_peft_model_state_dict(model, save_embedding_layers=False).items()}
    if shapes != {name: t.shape for name, t in tensors.items()}:
        raise JobError(
            f"the adapter to begin with ({adapter.name}) has other tensors than the one to be trained\n"
            "fix: keep training.lora the same in both phases"
        )
    set_peft_model_state_dict(model, tensors)
