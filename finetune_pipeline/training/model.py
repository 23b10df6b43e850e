"""Builds the model to train from the base, and saves it afterwards (safetensors only)."""

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from finetune_pipeline.faults import JobError
from finetune_pipeline.models.classifier import with_head, write_classes
from finetune_pipeline.models.facts import Weights
from finetune_pipeline.models.identity import model_folder, name_base
from finetune_pipeline.models.loading import load_for_training
from finetune_pipeline.models.model_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    INDEX,
    stored_tensors,
    text_files,
    weight_files,
)
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.methods.base import CHECKPOINT_ABOVE
from finetune_pipeline.spec.training import TrainingSettings
from finetune_pipeline.training.facts import Trained


@dataclass
class Built:
    """A model ready for training. weights: facts about the base's (loading.weight_facts); autocast: dtype in which it computes
    with its float32 weights (None: their own); checkpointing and the reason; begun: facts about the initial values."""

    model: Any
    weights: Weights
    autocast: torch.dtype | None = None
    checkpointing: bool = False
    checkpointing_why: str = ""
    begun: dict[str, Any] = field(default_factory=dict)


def build(
    base: Path,
    settings: TrainingSettings,
    compute: torch.dtype,
    device: torch.device,
    tokenizer: Any,
    task_text: str,
    start_from: Path | None = None,
    classes: Sequence[str] = (),
) -> Built:
    """Load the base for ``settings.method`` and add the trained part.

    start_from: folder of an adapter with the initial weights. task_text: of training.rows.task_text. classes: of a classifier.
    Raises JobError for settings that cannot be used together.
    """
    method = METHODS[settings.method]
    model, weights = load_for_training(base, method.holds, compute, device)
    if classes:
        model = with_head(model, classes)
    checkpointing, reason = _checkpointing(settings, weights.parameters)
    model, start_facts = method.add(model, tokenizer, settings, task_text)
    if start_from is not None:
        _load_adapter_weights(model, start_from)
    autocast = compute if method.holds == "float32" and compute != torch.float32 else None
    return Built(model, weights, autocast, checkpointing, reason, start_facts)


def _checkpointing(settings: TrainingSettings, parameters: int) -> tuple[bool, str]:
    """Return (whether to use gradient checkpointing, the reason). Raises JobError if it is set but the method cannot use it."""
    setting = settings.gradient_checkpointing
    if not METHODS[settings.method].checkpointing:
        if setting is True:
            raise JobError(
                f"{settings.method} tuning does not work with gradient checkpointing",
                "set training.gradient_checkpointing: false, or use another method",
            )
        return False, f"never with {settings.method} tuning, which trains the key-value cache"
    if setting == "auto":
        large = parameters > CHECKPOINT_ABOVE
        return large, f"the base has {'over' if large else 'at most'} {CHECKPOINT_ABOVE // 10**9}B parameters"
    return bool(setting), "as set in training.gradient_checkpointing"


def _load_adapter_weights(model: Any, adapter: Path) -> None:
    """Load an earlier adapter's weights into the new one. Raises JobError if the two do not have the same tensors."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    shapes = {name: t.shape for name, t in get_peft_model_state_dict(model, save_embedding_layers=False).items()}
    if shapes != {name: t.shape for name, t in tensors.items()}:
        raise JobError(
            f"the adapter to begin with ({adapter.name}) has different tensors than the adapter to train",
            "keep training.lora the same in both phases",
        )
    set_peft_model_state_dict(model, tensors)


def save_trained(
    model: Any, tokenizer: Any, base: Path, method: str, folder: Path, gathered: dict[str, torch.Tensor] | None = None
) -> Trained:
    """Replace `folder` by the trained model. gathered: all weights, if the model is split over several processes.

    Adapters: adapter_model.safetensors (float32), adapter_config.json (naming the base by its id, not by a path here), a
    classifier's labels, the tokenizer and its chat template.
    full: the base's configuration and tokenizer files with the new weights, in the base's
    dtype. Raises RuntimeError if the file contains tensors that do not belong there.
    """
    shutil.rmtree(folder, ignore_errors=True)
    kind = METHODS[method].kind
    if kind.adapter:
        model.save_pretrained(folder, state_dict=gathered, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        name_base(folder / ADAPTER_CONFIG, base)
        tokenizer.save_pretrained(folder)
        if not kind.generates:
            write_classes(folder, model.get_base_model().classes)
    else:
        _save_model(model, base, folder, gathered)
    names = sorted(stored_tensors(folder))
    unexpected = [n for n in names if not re.search(kind.tensors, n)]
    if unexpected:
        raise RuntimeError(
            f"the adapter file contains tensors that do not belong to an adapter: {', '.join(unexpected[:5])}"
        )
    size = sum(file.stat().st_size for file in weight_files(folder))
    return Trained(folder=folder.name, kind=kind.name, bytes=size, tensors=names)


def base_dtype(base: Path) -> torch.dtype:
    """Return the dtype of most of the base model's weights."""
    sizes: Counter[str] = Counter()
    for tensor in stored_tensors(model_folder(base)).values():
        sizes[tensor.dtype] += tensor.size
    most_common = max(sizes, key=lambda name: (sizes[name], name))
    return {"BF16": torch.bfloat16, "F16": torch.float16}.get(most_common, torch.float32)


def round_to_base(model: Any, base: Path) -> torch.dtype:
    """Round a float32 model's weights to values of the base's dtype; they stay float32. Returns that dtype."""
    dtype = base_dtype(base)
    if dtype != torch.float32:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.to(dtype))
    return dtype


def _save_model(model: Any, base: Path, folder: Path, gathered: dict[str, torch.Tensor] | None) -> None:
    """Write a fully trained model in the base's dtype, with the base's tokenizer and configuration files."""
    source, dtype = model_folder(base), base_dtype(base)
    if gathered is None:
        model.to(dtype).save_pretrained(folder)
    else:
        names = {name for name, _ in model.named_parameters()}  # gathering copies a tied weight for each of its names
        model.save_pretrained(folder, state_dict={name: t.to(dtype) for name, t in gathered.items() if name in names})
    for path in text_files(source):
        if path.name != INDEX:
            shutil.copyfile(path, folder / path.name)
