"""Builds the model to train from the base, and saves it afterwards (safetensors only)."""

import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from finetune_pipeline.faults import JobError
from finetune_pipeline.models.adapters import CONFIG, WEIGHTS
from finetune_pipeline.models.identity import INDEX, model_folder, name_base, stored_tensors, text_files, weight_files
from finetune_pipeline.models.loading import load_for_training
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.methods.base import CHECKPOINT_ABOVE


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
    task_text: str,
    start_from: Path | None = None,
) -> Built:
    """Load the base for ``settings["method"]`` and add what is trained.

    start_from: adapter folder whose weights the adapter begins with. task_text: what training.rows.task_text gives. Raises
    JobError for settings that cannot be used together.
    """
    method = METHODS[settings["method"]]
    model, weights = load_for_training(base, method.holds, compute, device)
    checkpointing, why = _checkpointing(settings, weights["parameters"])
    model, begun = method.add(model, tokenizer, settings, task_text)
    if start_from is not None:
        _begin_with(model, start_from)
    autocast = compute if method.holds == "float32" and compute != torch.float32 else None
    return Built(model, weights, autocast, checkpointing, why, begun)


def _checkpointing(settings: dict[str, Any], parameters: int) -> tuple[bool, str]:
    wanted = settings["gradient_checkpointing"]
    if not METHODS[settings["method"]].checkpointing:
        if wanted is True:
            raise JobError(
                f"{settings['method']} tuning does not work with gradient checkpointing\n"
                "fix: set training.gradient_checkpointing: false, or use another method"
            )
        return False, f"never with {settings['method']} tuning, which trains what lies in the key-value cache"
    if wanted == "auto":
        large = parameters > CHECKPOINT_ABOVE
        return large, f"the base has {'over' if large else 'at most'} {CHECKPOINT_ABOVE // 10**9}B parameters"
    return bool(wanted), "as training.gradient_checkpointing says"


def _begin_with(model: Any, adapter: Path) -> None:
    """Put an earlier adapter's weights into the fresh one. Raises JobError if the two do not have the same tensors."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    tensors = load_file(adapter / WEIGHTS)
    shapes = {name: t.shape for name, t in get_peft_model_state_dict(model, save_embedding_layers=False).items()}
    if shapes != {name: t.shape for name, t in tensors.items()}:
        raise JobError(
            f"the adapter to begin with ({adapter.name}) has other tensors than the one to be trained\n"
            "fix: keep training.lora the same in both phases"
        )
    set_peft_model_state_dict(model, tensors)


def save_trained(
    model: Any, tokenizer: Any, base: Path, method: str, folder: Path, gathered: dict[str, torch.Tensor] | None = None
) -> dict[str, Any]:
    """Write `folder` anew. gathered: all weights, where the model is split over several processes.

    Adapters: adapter_model.safetensors (float32), adapter_config.json (naming the base by its id, not by a path here), the
    tokenizer and its chat template. full: the base's own configuration and tokenizer files with the new weights, in the
    base's dtype. Raises RuntimeError if the file holds tensors that do not belong there.
    """
    shutil.rmtree(folder, ignore_errors=True)
    kind = METHODS[method].kind
    if kind.adapter:
        model.save_pretrained(folder, state_dict=gathered, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        name_base(folder / CONFIG, base)
        tokenizer.save_pretrained(folder)
    else:
        _save_model(model, base, folder, gathered)
    names = sorted(stored_tensors(folder))
    foreign = [n for n in names if not re.search(kind.tensors, n)]
    if foreign:
        raise RuntimeError(f"the adapter file holds tensors that are no adapter's: {', '.join(foreign[:5])}")
    return {"kind": kind.name, "bytes": sum(file.stat().st_size for file in weight_files(folder)), "tensors": names}


def base_dtype(base: Path) -> torch.dtype:
    """The dtype most of the base model's weights are stored in."""
    sizes: Counter[str] = Counter()
    for tensor in stored_tensors(model_folder(base)).values():
        sizes[tensor.dtype] += tensor.bytes
    commonest = max(sizes, key=lambda name: (sizes[name], name))
    return {"BF16": torch.bfloat16, "F16": torch.float16}.get(commonest, torch.float32)


def round_to_base(model: Any, base: Path) -> torch.dtype:
    """Round a float32 model's weights to what the base's dtype can hold; they stay float32. Returns that dtype."""
    dtype = base_dtype(base)
    if dtype != torch.float32:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.to(dtype))
    return dtype


def _save_model(model: Any, base: Path, folder: Path, gathered: dict[str, torch.Tensor] | None) -> None:
    source, dtype = model_folder(base), base_dtype(base)
    if gathered is None:
        model.to(dtype).save_pretrained(folder)
    else:
        once = {name for name, _ in model.named_parameters()}  # gathering makes a copy for each name of a tied weight
        model.save_pretrained(folder, state_dict={name: t.to(dtype) for name, t in gathered.items() if name in once})
    for path in text_files(source):
        if path.name != INDEX:
            shutil.copyfile(path, folder / path.name)
