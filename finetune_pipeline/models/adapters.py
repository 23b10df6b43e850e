"""Reads adapter folders: their kind, and which weights of the base a low-rank adapter changes.

Only adapters that this pipeline's methods write are supported (LoRA, rsLoRA, DoRA). Everything else is refused, because an
incomplete merge still looks like a valid model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_pipeline.engine.files import read_json
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, StoredTensor, tensor_header
from finetune_pipeline.spec.methods.classifier import HEAD

KINDS = {"LORA": "lora", "PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}
"""Maps PEFT's adapter types to names of spec.methods.Kind; with the task type SEQ_CLS it is ``classifier``."""
CLASSIFIER_HEAD = f"{HEAD}.weight"
"""The tensor of a classifier's head, in the merged model and, after PEFT's prefix, in the adapter."""
_PEFT_HEADS = {HEAD, "classifier"}
"""Modules that PEFT saves with every adapter of a classifier."""
_PREFIX = "base_model.model."

_SUPPORTED_SETTINGS = {
    # used by this module
    *("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "init_lora_weights"),
    # names of the adapted layers, which the tensor names in the file also give
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    # settings of training or metadata, without effect on the weights
    *("lora_dropout", "inference_mode", "auto_mapping", "base_model_name_or_path", "revision", "task_type"),
    *("peft_version", "runtime_config", "loftq_config", "eva_config", "megatron_core", "qalora_group_size"),
}
_UNCHANGED_BASE_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base weights unchanged. Others (PiSSA, OLoRA, CorDA, LoftQ) change them, so the adapter
file alone does not determine the trained weights."""


def adapter_kind(folder: Path) -> str:
    """Return the kind of trained model in `folder`: an adapter's by its peft_type, or ``full`` for a whole model.
    Raises JobError if it is neither, and for an unknown peft_type."""
    if (folder / ADAPTER_CONFIG).is_file():
        config = read_json(folder / ADAPTER_CONFIG)
        peft_type = str(config.get("peft_type"))
        if peft_type not in KINDS:
            raise JobError(
                f"the adapter in {folder.name!r} has type {peft_type}, which cannot be merged or exported (supported: "
                f"{', '.join(KINDS)})",
                "train with one of the methods of training.method",
            )
        return "classifier" if (peft_type, config.get("task_type")) == ("LORA", "SEQ_CLS") else KINDS[peft_type]
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return "full"
    raise JobError(
        f"{folder.name!r} contains neither an adapter ({ADAPTER_CONFIG}) nor a model (config.json and safetensors)",
        "pass the folder that training wrote",
    )


@dataclass(slots=True)
class LowRank:
    """The low-rank change of one weight: tensor names of A, B and (DoRA) the magnitude in the adapter's file."""

    a: str = ""
    b: str = ""
    magnitude: str | None = None


@dataclass
class Adapter:
    """A low-rank adapter. entries: the tensors of its file; changes: those of each base weight, by the weight's name; head: the
    name of the tensor of a classifier's head in its file."""

    folder: Path
    config: Mapping[str, Any]
    entries: Mapping[str, StoredTensor]
    head: str | None = None
    changes: dict[str, LowRank] = field(default_factory=dict)

    @property
    def scaling(self) -> float:
        """The factor of B A: alpha / r (Hu et al. 2021), or alpha / sqrt(r) for rank-stabilised LoRA (Kalajdzievski 2023)."""
        r = int(self.config["r"])
        return float(self.config["lora_alpha"] / (math.sqrt(r) if self.config.get("use_rslora") else r))


def read_adapter(folder: Path) -> Adapter:
    """Read a low-rank adapter and the weights it changes. Reads headers only.
    Raises JobError for other kinds of adapters; otherwise names every unsupported setting and tensor."""
    kind = adapter_kind(folder)
    if kind == "full":
        raise JobError(f"{folder.name!r} is a whole model, not an adapter", "use it as it is")
    if kind not in ("lora", "classifier"):
        alternative = ", or as a model with added tokens" if kind == "prompt" else ""
        problem = f"the adapter in {folder.name!r} is a soft prompt ({kind} tuning): it changes no weights"
        fix = f"export it as an adapter{alternative} (`finetune export`)"
        raise JobError(f"{problem}, so there is nothing to merge", fix)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        fix = "save the adapter with `save_pretrained`, which writes safetensors"
        raise JobError(f"{folder.name!r} does not contain {ADAPTER_WEIGHTS}", fix)
    entries, head = tensor_header(folder / ADAPTER_WEIGHTS)[0], None
    config = read_json(folder / ADAPTER_CONFIG)
    if kind == "classifier" and {*(config.get("modules_to_save") or ())} <= _PEFT_HEADS:
        config, head = {**config, "modules_to_save": None}, f"{_PREFIX}{CLASSIFIER_HEAD}"
    adapter = Adapter(folder, config, entries, head)
    problems = [*_settings_problems(adapter.config), *_read_tensors(adapter)]
    if kind == "classifier" and head not in entries:
        problems.append(f"its file lacks the classifier's head, {CLASSIFIER_HEAD!r}")
    if problems:
        fix = "serve it as an adapter, or train with supported settings (LoRA, rsLoRA, DoRA)"
        raise JobError("\n".join(["this adapter cannot be merged:", *(f"- {p}" for p in problems)]), fix)
    return adapter


def _settings_problems(config: Mapping[str, object]) -> list[str]:
    problems = [
        f"the merge does not support its setting {key} = {value!r}"
        for key, value in sorted(config.items())
        if key not in _SUPPORTED_SETTINGS and value not in (None, False, [], {}, "none")
    ]
    initialisation = config.get("init_lora_weights", True)
    if initialisation not in _UNCHANGED_BASE_STARTS:
        problems.append(
            f"init_lora_weights = {initialisation!r} changes the base's weights, so merging into the unchanged base would be "
            "wrong; save it again with `path_initial_model_for_weight_conversion`"
        )
    return problems


def _read_tensors(adapter: Adapter) -> list[str]:
    """Fill adapter.changes; return the problems."""
    problems = []
    entries, r, dora = adapter.entries, int(adapter.config["r"]), bool(adapter.config.get("use_dora"))
    parts = {"A.weight": "a", "B.weight": "b", "magnitude_vector": "magnitude"}
    for name in entries.keys() - {adapter.head}:
        module, _, part = name.removeprefix(_PREFIX).rpartition(".lora_")
        if not module or part not in parts:
            problems.append(f"its file contains {name!r}, which is not a LoRA matrix of a linear layer")
            continue
        setattr(adapter.changes.setdefault(f"{module}.weight", LowRank()), parts[part], name)
    for weight, change in adapter.changes.items():
        module = weight.removesuffix(".weight")
        if not change.a or not change.b:
            problems.append(f"it contains only one of the two matrices for {module!r}")
            continue
        shapes = entries[change.a].shape, entries[change.b].shape
        if shapes[0][0] != r or shapes[1][-1] != r:
            mismatch = f"the shapes {shapes[0]} and {shapes[1]}, which do not match rank {r}"
            problems.append(f"the matrices for {module!r} have {mismatch}")
        if dora != (change.magnitude is not None):
            problems.append(f"use_dora is {dora}, but {module!r} has {'a' if change.magnitude else 'no'} magnitude")
    return problems if adapter.changes or problems else ["its file contains no tensors"]
