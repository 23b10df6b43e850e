"""Merges an adapter into the unquantized base, tensor by tensor: W + scaling * B A in float32, stored as the base is.

Never into 4-bit weights: those differ from the base by their rounding error, and the merged model would keep it for good.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from finetune_pipeline.artifacts import digest_file, read_json, write_json
from finetune_pipeline.models.identity import MODEL_FILE, model_folder, model_record, weight_files
from finetune_pipeline.training.faults import JobError

_PREFIX = "base_model.model."
_PLAIN = {
    "bias": "none",
    "use_dora": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "lora_bias": False,
    "trainable_token_indices": None,
}


def scaling_of(config: dict[str, Any]) -> float:
    """alpha / r (Hu et al. 2021), or alpha / sqrt(r) for rank-stabilised LoRA (Kalajdzievski 2023)."""
    r = config["r"]
    return float(config["lora_alpha"] / (math.sqrt(r) if config.get("use_rslora") else r))


def merge(base: Path, adapter: Path, out: Path) -> dict[str, Any]:
    """Write the merged model into out/model and its record into out/model.json; returns the facts.

    Copies configuration, tokenizer and generation config. Raises JobError for an adapter that is not plain LoRA, whose
    tensors do not fit the base, or for a quantized base.
    """
    source, target = model_folder(base), out / "model"
    config = read_json(adapter / "adapter_config.json")
    _refuse_other_kinds(config, source)
    pairs = _read_adapter(adapter)
    scaling = scaling_of(config)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    merged: list[str] = []
    dtypes = set()
    for file in weight_files(source):
        tensors: dict[str, torch.Tensor] = {}
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a mapping
                tensor = weights.get_tensor(name)
                dtypes.add(str(tensor.dtype).removeprefix("torch."))
                if name in pairs:
                    tensor = _add(name, tensor, *pairs[name], scaling, bool(config.get("fan_in_fan_out")))
                    merged.append(name)
                tensors[name] = tensor
            metadata = weights.metadata() or {"format": "pt"}
        save_file(tensors, target / file.name, metadata=metadata)
    left = sorted(set(pairs) - set(merged))
    if left:
        raise JobError(
            f"the base model has no weight {left[0]!r} (and {len(left) - 1} more) that the adapter changes\n"
            "fix: merge the adapter into the base model it was trained on"
        )
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in (".json", ".jinja", ".model", ".txt") and path.name != MODEL_FILE:
            shutil.copyfile(path, target / path.name)
    record = model_record(base)
    facts = {
        "base_model": record["base_model"],
        "revision": record.get("revision"),
        "merged_tensors": len(merged),
        "scaling": scaling,
        "dtype": "+".join(sorted(dtypes)),
        "weight_bytes": sum(p.stat().st_size for p in target.glob("*.safetensors")),
        "files": {p.name: digest_file(p) for p in sorted(target.iterdir())},
        "adapter_sha256": digest_file(adapter / "adapter_model.safetensors"),
    }
    write_json(out / MODEL_FILE, {"path": "model", **facts})
    return facts


def _refuse_other_kinds(config: dict[str, Any], base: Path) -> None:
    other = [f"{k} = {config[k]!r}" for k, v in _PLAIN.items() if config.get(k, v) not in (v, None, {}, [], False)]
    if config.get("peft_type") != "LORA" or other:
        raise JobError(
            f"only plain LoRA adapters are merged; this one is {config.get('peft_type')}"
            f"{' with ' + ', '.join(other) if other else ''}"
        )
    if read_json(base / "config.json").get("quantization_config"):
        raise JobError(
            f"the base model {base.name!r} is quantized: merging into it would keep its rounding errors\n"
            "fix: name the unquantized model as base_model"
        )


def _read_adapter(adapter: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Base weight's name to (A, B)."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a mapping
            plain = name.removeprefix(_PREFIX)
            for kind in ("lora_A", "lora_B"):
                if plain.endswith(f".{kind}.weight"):
                    parts.setdefault(plain.removesuffix(f".{kind}.weight") + ".weight", {})[kind] = tensors.get_tensor(
                        name
                    )
                    break
            else:
                raise JobError(f"the adapter file holds {name!r}, which is no LoRA matrix")
    incomplete = [name for name, pair in parts.items() if len(pair) != 2]
    if incomplete:
        raise JobError(f"the adapter holds only one of the two matrices for {incomplete[0]!r}")
    return {name: (pair["lora_A"], pair["lora_B"]) for name, pair in parts.items()}


def _add(
    name: str, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float, transposed: bool
) -> torch.Tensor:
    change = scaling * (b.float() @ a.float())
    change = change.t() if transposed else change
    if change.shape != weight.shape:
        raise JobError(
            f"the adapter's change of {name} has shape {tuple(change.shape)}, the base's weight "
            f"{tuple(weight.shape)}\nfix: merge the adapter into the base model it was trained on"
        )
    return (weight.float() + change).to(weight.dtype)


def merge_and_compare(job: dict[str, Any]) -> dict[str, Any]:
    """Run a job of :func:`finetune_pipeline.training.jobs.merge_job`. Returns the facts, those of the comparison under
    ``parity``."""
    from finetune_pipeline.data.examples import read_examples
    from finetune_pipeline.models.parity import parity

    base, adapter, out = Path(job["base"]), Path(job["adapter"]), Path(job["out"])
    facts = merge(base, adapter, out)
    examples = sorted(read_examples(Path(job["examples"])), key=lambda e: e.id)[: job["parity_rows"]]
    if not examples:
        raise JobError(f"{Path(job['examples']).name} holds no examples to compare the merged model on")
    facts["parity"] = parity(
        base,
        adapter,
        out,
        examples,
        job["labels"],
        max_new_tokens=job["max_new_tokens"],
        batch_size=job["batch_size"],
        stage=job["stage"],
    )
    return facts
