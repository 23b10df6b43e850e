"""Writes what was trained: an adapter folder, or for full fine-tuning a model folder; safetensors only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from finetune_pipeline.engine.store import read_json, write_json
from finetune_pipeline.models.identity import model_folder, model_record, weight_files
from finetune_pipeline.spec.method_defaults import LOW_RANK, SOFT_PROMPTS

ADAPTER_FILE = "adapter_model.safetensors"
_TEXTS = (".json", ".jinja", ".model", ".txt")


def save_trained(
    model: Any, tokenizer: Any, base: Path, method: str, folder: Path, gathered: dict[str, torch.Tensor] | None = None
) -> dict[str, Any]:
    """Write `folder` anew.

    Adapters: adapter_model.safetensors (float32), adapter_config.json (naming the base by its id, not by a path here), the
    tokenizer and its chat template. full: the base's own configuration and tokenizer files with the new weights, in the
    base's dtype.

    Args:
        model: What was trained.
        tokenizer: Its tokenizer.
        base: The base model's folder.
        method: The training method.
        folder: Where to write.
        gathered: All weights, where the model is split over several processes.

    Returns:
        {kind (low_rank, soft_prompt or model), bytes of the weight files, tensors [names]}.

    Raises:
        RuntimeError: The file holds tensors that do not belong there.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if method == "full":
        _save_model(model, base, folder, gathered)
        kind = "model"
    else:
        _save_adapter(model, base, folder, gathered)
        tokenizer.save_pretrained(folder)
        kind = "low_rank" if method in LOW_RANK else "soft_prompt"
    names, size = [], 0
    for file in weight_files(folder):
        size += file.stat().st_size
        with safe_open(file, framework="pt") as tensors:
            names += list(tensors.keys())
    foreign = sorted(n for n in names if not _belongs(n, method))
    if foreign:
        raise RuntimeError(f"the adapter file holds tensors that are no adapter's: {', '.join(foreign[:5])}")
    return {"kind": kind, "bytes": size, "tensors": sorted(names)}


def _belongs(name: str, method: str) -> bool:
    if method in SOFT_PROMPTS:
        return name == "prompt_embeddings"
    return method == "full" or "lora_" in name


def _save_adapter(model: Any, base: Path, folder: Path, gathered: dict[str, torch.Tensor] | None) -> None:
    model.save_pretrained(folder, state_dict=gathered, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    record = model_record(base)
    config = read_json(folder / "adapter_config.json")
    config |= {
        "base_model_name_or_path": record["base_model"],
        "revision": record.get("revision"),
        "inference_mode": True,
    }
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    write_json(folder / "adapter_config.json", dict(sorted(config.items())))


def base_dtype(base: Path) -> torch.dtype:
    """The dtype most of the base model's weights are stored in."""
    sizes: dict[str, int] = {}
    for file in weight_files(model_folder(base)):
        with file.open("rb") as handle:
            header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
        for name, told in header.items():
            if name != "__metadata__":
                first, last = told["data_offsets"]
                sizes[told["dtype"]] = sizes.get(told["dtype"], 0) + last - first
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
    for path in sorted(source.iterdir()):
        if path.suffix in _TEXTS and path.is_file() and path.name not in ("model.json", "model.safetensors.index.json"):
            shutil.copyfile(path, folder / path.name)
