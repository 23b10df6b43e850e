"""Adapter folders: what kind they are, and the merged weight W + scaling * B A, a block of rows at a time.

What decides the merged weight is read from the adapter's configuration and from the names in its file. Only what the
methods of this pipeline write is understood (LoRA, rsLoRA, DoRA); everything else is refused, because a merge that leaves
something out still looks like a model.

One rounding at the end: the sum is made in float32 and stored in the base's type. PEFT's ``merge_and_unload`` on float32
adapter weights does the same, and the results are the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from finetune_pipeline.engine.store import read_json
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.streaming import TORCH_TYPES, TensorFile

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KINDS = {"LORA": "lora", "PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}
"""PEFT's name of an adapter's type, and the name of its spec.methods.Kind."""

_UNDERSTOOD = {
    # read below
    *("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "init_lora_weights"),
    # which layers were adapted: the names in the file say so themselves
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    # of training, or about the file
    *("lora_dropout", "inference_mode", "auto_mapping", "base_model_name_or_path", "revision", "task_type"),
    *("peft_version", "runtime_config", "loftq_config", "eva_config", "megatron_core", "qalora_group_size"),
}
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base weights unchanged. Others (PiSSA, OLoRA, CorDA, LoftQ) subtract something from
them, so the file alone does not say what was trained."""


def adapter_kind(folder: Path) -> str:
    """The kind of what a training left in `folder`: an adapter by its peft_type, or ``full``, a whole model.

    Raises JobError for neither, and for a peft_type this pipeline does not know.
    """
    if (folder / CONFIG).is_file():
        peft_type = str(read_json(folder / CONFIG).get("peft_type"))
        if peft_type not in KINDS:
            raise JobError(
                f"the adapter in {folder.name!r} is of the type {peft_type}, which is not merged or exported here (known: "
                f"{', '.join(KINDS)})\nfix: train with one of training.method"
            )
        return KINDS[peft_type]
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return "full"
    raise JobError(
        f"{folder.name!r} holds neither an adapter ({CONFIG}) nor a model (config.json and safetensors)\n"
        "fix: give the folder that training wrote"
    )


@dataclass(slots=True)
class LowRank:
    """The change of one weight: names of A, of B, and with DoRA of the magnitude, in the adapter's file."""

    a: str = ""
    b: str = ""
    magnitude: str | None = None


@dataclass
class Adapter:
    """A low-rank adapter. `changes`: name of the base's weight to what is added to it."""

    folder: Path
    config: Mapping[str, Any]
    file: TensorFile
    changes: dict[str, LowRank] = field(default_factory=dict)

    @property
    def scaling(self) -> float:
        """alpha / r (Hu et al. 2021), or alpha / sqrt(r) for rank-stabilised LoRA (Kalajdzievski 2023)."""
        r = int(self.config["r"])
        return float(self.config["lora_alpha"] / (math.sqrt(r) if self.config.get("use_rslora") else r))


def read_adapter(folder: Path) -> Adapter:
    """Read a low-rank adapter and the weights it changes. Reads headers only.

    Raises JobError naming every setting and every tensor that is not understood, and for other kinds.
    """
    kind = adapter_kind(folder)
    if kind == "full":
        raise JobError(f"{folder.name!r} is a whole model, no adapter\nfix: use it as it is")
    if kind != "lora":
        also = ", or as a model with added tokens" if kind == "prompt" else ""
        raise JobError(
            f"the adapter in {folder.name!r} is a soft prompt ({kind} tuning): it changes no weight, so there is nothing "
            f"to merge\nfix: export it as an adapter{also} (`finetune export`)"
        )
    if not (folder / WEIGHTS).is_file():
        raise JobError(
            f"{folder.name!r} holds no {WEIGHTS}\nfix: save the adapter with `save_pretrained`, which writes safetensors"
        )
    adapter = Adapter(folder, read_json(folder / CONFIG), TensorFile(folder / WEIGHTS))
    problems = [*_settings_problems(adapter.config), *_read_tensors(adapter)]
    if problems:
        raise JobError(
            "this adapter cannot be merged:\n"
            + "\n".join(f"- {p}" for p in problems)
            + "\nfix: serve it as an adapter, or train with settings this merge knows (LoRA, rsLoRA, DoRA)"
        )
    return adapter


def _settings_problems(config: Mapping[str, Any]) -> list[str]:
    problems = [
        f"its setting {key} = {value!r} is not known to this merge"
        for key, value in sorted(config.items())
        if key not in _UNDERSTOOD and value not in (None, False, [], {}, "none")
    ]
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        problems.append(
            f"init_lora_weights = {start!r} changes the base's weights, so merging into the unchanged base would be wrong; "
            "save it again with `path_initial_model_for_weight_conversion`"
        )
    return problems


def _read_tensors(adapter: Adapter) -> list[str]:
    """Fill adapter.changes; returns what is wrong."""
    problems = []
    entries, r, dora = adapter.file.entries, int(adapter.config["r"]), bool(adapter.config.get("use_dora"))
    parts = {"A.weight": "a", "B.weight": "b", "magnitude_vector": "magnitude"}
    for name in entries:
        module, _, part = name.removeprefix("base_model.model.").rpartition(".lora_")
        if not module or part not in parts:
            problems.append(f"its file holds {name!r}, which is no LoRA matrix of a linear layer")
            continue
        setattr(adapter.changes.setdefault(f"{module}.weight", LowRank()), parts[part], name)
    for weight, change in adapter.changes.items():
        module = weight.removesuffix(".weight")
        if not change.a or not change.b:
            problems.append(f"it holds only one of the two matrices for {module!r}")
            continue
        shapes = entries[change.a].shape, entries[change.b].shape
        if shapes[0][0] != r or shapes[1][-1] != r:
            problems.append(
                f"the matrices for {module!r} have the shapes {shapes[0]} and {shapes[1]}, which is not rank {r}"
            )
        if dora != (change.magnitude is not None):
            problems.append(f"use_dora is {dora}, but {module!r} has {'a' if change.magnitude else 'no'} magnitude")
    return problems if adapter.changes or problems else ["its file holds no tensors"]


def changed_rows(adapter: Adapter, weight: str, dtype: str) -> Callable[[TensorFile], Iterator[torch.Tensor]]:
    """How the base's tensor `weight` is written once the adapter is merged into it, stored as `dtype` (safetensors' name).

    Returns a function from the open file that holds the weight to its new rows, in order, some 2 Mi elements at a time.
    """
    change = adapter.changes[weight]

    def make(base: TensorFile) -> Iterator[torch.Tensor]:
        with adapter.file as own:
            a, b = own.tensor(change.a).float(), own.tensor(change.b).float()
            magnitude = own.tensor(change.magnitude).float() if change.magnitude else None
        for start, stop in base.blocks(weight):
            rows = base.rows(weight, start, stop).float().add_((b[start:stop] @ a).mul(adapter.scaling))
            if magnitude is not None:  # DoRA (Liu et al. 2024): magnitude / norm over each output's inputs
                rows *= (magnitude[start:stop] / torch.linalg.norm(rows, dim=1))[:, None]
            yield rows.to(TORCH_TYPES[dtype])

    return make
