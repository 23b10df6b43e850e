"""Adapter folders: what kind they are, and which weights of the base they change in which way.

Everything about a low-rank adapter that decides the merged weight is settled here, from its configuration and from the
names in its file; what is not understood is refused, because a merge that leaves something out still looks like a model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from finetune_pipeline.engine.store import read_json
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.checkpoint import HEADS
from finetune_pipeline.models.streaming import TORCH_TYPES, TensorFile

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Kind = Literal["lora", "prompt", "prefix", "full"]
KINDS: dict[str, Kind] = {"LORA": "lora", "PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}

_PREFIX = "base_model.model."
_UNDERSTOOD = {
    # read below
    *("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern"),
    *("modules_to_save", "bias", "lora_bias", "init_lora_weights"),
    # which layers were adapted: the names in the file say so themselves
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "ensure_weight_tying"),
    # of training, or about the file
    *("lora_dropout", "inference_mode", "auto_mapping", "base_model_name_or_path", "revision", "task_type"),
    *("peft_version", "runtime_config", "loftq_config", "eva_config", "megatron_core", "qalora_group_size"),
}
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base's weights as they are. Others (PiSSA, OLoRA, CorDA, LoftQ) subtract something from
them, so the file alone does not say what was trained."""


def adapter_kind(folder: Path) -> Kind:
    """What a training left in `folder`: an adapter by its peft_type, or a whole model.

    Raises JobError for neither, and for a peft_type this pipeline does not know.
    """
    if (folder / CONFIG).is_file():
        told = str(read_json(folder / CONFIG).get("peft_type"))
        if told not in KINDS:
            raise JobError(
                f"the adapter in {folder.name!r} is of the type {told}, which is not merged or exported here (known: "
                f"{', '.join(KINDS)})\nfix: train with one of training.method"
            )
        return KINDS[told]
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return "full"
    raise JobError(
        f"{folder.name!r} holds neither an adapter ({CONFIG}) nor a model (config.json and safetensors)\n"
        "fix: give the folder that training wrote"
    )


@dataclass(frozen=True, slots=True)
class LowRank:
    """The change scaling * B A of one weight. a, b: tensors of the adapter file; magnitude: DoRA's, where there is one.

    embedding: the weight is [vocabulary, width] and A, B are those of its transpose.
    """

    a: str
    b: str
    scaling: float
    magnitude: str | None = None
    embedding: bool = False


@dataclass(slots=True)
class Change:
    """What happens to one weight or bias of the base: first replaced (modules_to_save), then changed at low rank, or
    added to (lora_bias: tensor of the adapter file, scaling)."""

    replacement: str | None = None
    low_rank: LowRank | None = None
    added: tuple[str, float] | None = None


@dataclass
class Adapter:
    """A low-rank adapter. `changes`: name of the base's tensor to what happens to it."""

    folder: Path
    config: Mapping[str, Any]
    file: TensorFile
    changes: dict[str, Change] = field(default_factory=dict)

    @property
    def transposed(self) -> bool:
        """Whether the base stores these weights as [in, out] (GPT-2's Conv1D)."""
        return bool(self.config.get("fan_in_fan_out"))

    @property
    def scaling(self) -> float:
        """The factor of layers without a pattern of their own."""
        return scaling_of(self.config, int(self.config["r"]), float(self.config["lora_alpha"]))


def scaling_of(config: Mapping[str, Any], r: int, alpha: float) -> float:
    """alpha / r (Hu et al. 2021), or alpha / sqrt(r) for rank-stabilised LoRA (Kalajdzievski 2023)."""
    return float(alpha / (math.sqrt(r) if config.get("use_rslora") else r))


def _of_module(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that fits a module's name from its end, as PEFT matches them."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def read_adapter(folder: Path) -> Adapter:
    """A low-rank adapter, with all it changes. Reads headers only.

    Raises JobError naming every setting and every tensor that is not understood, and for soft prompts.
    """
    kind = adapter_kind(folder)
    if kind in ("prompt", "prefix"):
        raise JobError(
            f"the adapter in {folder.name!r} is a soft prompt ({kind} tuning): it changes no weight, so there is nothing "
            "to merge\nfix: export it as an adapter"
            + (", or as a model with added tokens" if kind == "prompt" else "")
            + " (`finetune export`)"
        )
    if kind == "full":
        raise JobError(f"{folder.name!r} is a whole model, no adapter\nfix: use it as it is")
    config = read_json(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise JobError(
            f"{folder.name!r} holds no {WEIGHTS}\nfix: save the adapter with `save_pretrained`, which writes safetensors"
        )
    adapter = Adapter(folder, config, TensorFile(folder / WEIGHTS))
    problems = [*_settings_problems(config), *_read_tensors(adapter)]
    if problems:
        raise JobError(
            "this adapter cannot be merged:\n"
            + "\n".join(f"- {p}" for p in problems)
            + "\nfix: serve it as an adapter, or train with settings this merge knows (LoRA, rsLoRA, DoRA)"
        )
    return adapter


def _settings_problems(config: Mapping[str, Any]) -> list[str]:
    found = [
        f"its setting {key} = {value!r} is not known to this merge"
        for key, value in sorted(config.items())
        if key not in _UNDERSTOOD and value not in (None, False, [], {})
    ]
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        found.append(
            f"init_lora_weights = {start!r} changes the base's weights, so merging into the unchanged base would be wrong; "
            "save it again with `path_initial_model_for_weight_conversion`"
        )
    return found


def _read_tensors(adapter: Adapter) -> list[str]:
    """Fill adapter.changes; returns what is wrong."""
    found: list[str] = []
    low: dict[str, dict[str, str]] = {}
    saved = [str(m) for m in adapter.config.get("modules_to_save") or []]
    if saved and adapter.config.get("ensure_weight_tying"):
        saved += [n.removesuffix(".weight") for n in HEADS]  # PEFT saves a tied head beside the embeddings, unlisted
    for name in adapter.file.entries:
        plain = name.removeprefix(_PREFIX)
        module, _, kind = plain.rpartition(".lora_")
        if module and kind in ("A.weight", "B.weight", "embedding_A", "embedding_B", "magnitude_vector", "B.bias"):
            low.setdefault(module, {})[kind] = name
            continue
        module, _, leaf = plain.rpartition(".")
        if module.endswith(".base_layer"):
            plain = f"{module.removesuffix('.base_layer')}.{leaf}"
        elif not any(f".{m}." in f".{module}." for m in saved) and not (
            leaf == "bias" and adapter.config.get("bias", "none") != "none"
        ):
            found.append(f"its file holds {name!r}, which is no LoRA matrix and in none of modules_to_save")
            continue
        adapter.changes.setdefault(plain, Change()).replacement = name
    for module, parts in low.items():
        found += _read_low_rank(adapter, module, parts)
    if not adapter.changes and not found:
        found.append("its file holds no tensors")
    return found


def _read_low_rank(adapter: Adapter, module: str, parts: Mapping[str, str]) -> list[str]:
    embedding = "embedding_A" in parts or "embedding_B" in parts
    pair = [parts.get(k) for k in (("embedding_A", "embedding_B") if embedding else ("A.weight", "B.weight"))]
    a, b = pair
    if a is None or b is None:
        return [f"it holds only one of the two matrices for {module!r}"]
    config, entries = adapter.config, adapter.file.entries
    shapes = entries[a].shape, entries[b].shape
    r = int(_of_module(config.get("rank_pattern"), module, config["r"]))
    if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][0] != r or shapes[1][1] != r:
        return [f"the matrices for {module!r} have the shapes {shapes[0]} and {shapes[1]}, which is not rank {r}"]
    magnitude = parts.get("magnitude_vector")
    if bool(config.get("use_dora")) != (magnitude is not None):
        return [
            f"use_dora is {bool(config.get('use_dora'))}, but {module!r} has {'a' if magnitude else 'no'} magnitude"
        ]
    scaling = scaling_of(config, r, float(_of_module(config.get("alpha_pattern"), module, config["lora_alpha"])))
    change = adapter.changes.setdefault(f"{module}.weight", Change())
    change.low_rank = LowRank(a, b, scaling, magnitude, embedding)
    if "B.bias" in parts:
        adapter.changes.setdefault(f"{module}.bias", Change()).added = parts["B.bias"], scaling
    return []


Delta = Callable[[int, int], torch.Tensor]


def changed_rows(
    adapter: Adapter, change: Change, weight: str, dtype: str
) -> Callable[[TensorFile], Iterator[torch.Tensor]]:
    """How the base's tensor `weight` is written once `change` is made to it, stored as `dtype` (safetensors' name).

    Returns a function from the open file that holds the weight to its new rows, in order, some 2 Mi elements at a time.
    """

    def make(base: TensorFile) -> Iterator[torch.Tensor]:
        kind = TORCH_TYPES[dtype]
        with adapter.file as own:
            old = own if change.replacement else base
            name = change.replacement or weight
            if change.added is not None:
                key, scaling = change.added
                yield (old.tensor(name).float() + scaling * own.tensor(key).float()).to(kind)
                return
            if change.low_rank is None:
                for start, stop in old.blocks(name):
                    yield old.rows(name, start, stop).to(kind)
                return
            delta = _delta(own, change.low_rank, adapter.transposed)
            scale = _dora(own, change.low_rank, old, name, delta, adapter.transposed)
            for start, stop in old.blocks(name):
                new = old.rows(name, start, stop).float().add_(delta(start, stop))
                yield (new if scale is None else scale(start, stop, new)).to(kind)

    return make


def _delta(own: TensorFile, low: LowRank, transposed: bool) -> Delta:
    """Rows [start, stop) of scaling * B A as they lie in the weight."""
    a, b = own.tensor(low.a).float(), own.tensor(low.b).float()
    if transposed or low.embedding:
        return lambda start, stop: (b @ a[:, start:stop]).t().mul(low.scaling)
    return lambda start, stop: (b[start:stop] @ a).mul_(low.scaling)


def _dora(
    own: TensorFile, low: LowRank, old: TensorFile, name: str, delta: Delta, transposed: bool
) -> Callable[[int, int, torch.Tensor], torch.Tensor] | None:
    """DoRA (Liu et al. 2024): magnitude / norm of W + scaling B A over each output's inputs, times that sum."""
    if low.magnitude is None:
        return None
    magnitude = own.tensor(low.magnitude).float()
    if not (transposed or low.embedding):

        def by_row(start: int, stop: int, new: torch.Tensor) -> torch.Tensor:
            return new.mul_((magnitude[start:stop] / torch.linalg.norm(new, dim=1))[:, None])

        return by_row
    squares = torch.zeros(
        old.entries[name].shape[1], dtype=torch.float64
    )  # an output is a column: look at all rows first
    for start, stop in old.blocks(name):
        squares += old.rows(name, start, stop).float().add_(delta(start, stop)).double().square_().sum(0)
    factor = (magnitude / squares.sqrt_().float())[None, :]
    return lambda start, stop, new: new.mul_(factor)
