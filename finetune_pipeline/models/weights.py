"""Reads a model folder's weights as named tensors over one or many files, and writes copies with changed tensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.identity import origin
from finetune_pipeline.models.model_files import (
    EMBEDDINGS,
    HEADS,
    INDEX,
    MODEL_FILE,
    StoredTensor,
    stored_tensors,
    tensor_header,
    text_files,
    weight_files,
)


class Checkpoint:
    """The weights of a transformers folder. entries: dtype and shape of each tensor in use; place: its file."""

    def __init__(self, folder: Path) -> None:
        """Raises FindingsError and DamagedFile like weight_files and tensor_header, JobError for a tensor in two files."""
        self.folder = folder
        self.config: dict[str, Any] = read_json(folder / "config.json")
        self.entries: dict[str, StoredTensor] = {}
        self.place: dict[str, Path] = {}
        for path in weight_files(folder):
            for name, entry in tensor_header(path)[0].items():
                if name in self.place:
                    raise JobError(
                        f"{folder.name}: the tensor {name} is in {self.place[name].name} and in {path.name}",
                        "fetch the model again",
                    )
                self.entries[name], self.place[name] = entry, path

    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor, whose memory is the mapped file's: do not change it. Raises KeyError."""
        with safe_open(self.place[name], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    @property
    def embedding(self) -> str | None:
        """The name of the input embeddings' tensor, found by its usual suffixes; None if there is not exactly one."""
        names = [n for n in self.place if n.endswith(EMBEDDINGS)]
        return names[0] if len(names) == 1 else None

    @property
    def head(self) -> str | None:
        """The name of the output head's tensor; None if the files have no separate head."""
        return next((n for n in self.place if n.endswith(HEADS)), None)

    @property
    def usual_head(self) -> str:
        """The usual name of the head's tensor for this model's naming of embeddings."""
        name = self.embedding or ""
        prefix = "language_model." if name.startswith("language_model.") else ""  # of a model that also reads images
        return prefix + (HEADS[1] if name.endswith("embed_in.weight") else HEADS[0])

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding matrix: the configuration says so, or there is no separate head."""
        declared = self.config.get("tie_word_embeddings", self.config.get("text_config", {}).get("tie_word_embeddings"))
        return bool(declared) if declared is not None and self.head else self.head is None


Change = Callable[[torch.Tensor], torch.Tensor]
"""Computes a new tensor from the stored one."""


def copy_model(
    source: Checkpoint,
    target: Path,
    changes: Mapping[str, Change],
    added: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write a copy of a model with changed tensors into `target`: weights, index, configuration and the other files.
    added: names of new tensors, each with the stored one it is computed from, whose file it joins. config: changed settings."""
    target.mkdir(parents=True, exist_ok=True)
    sources = {name: name for name in source.place} | dict(added or {})
    for path in dict.fromkeys(source.place.values()):
        tensors = {}
        for name, stored in sources.items():
            if source.place[stored] == path:
                tensor = source.tensor(stored)
                tensors[name] = changes[name](tensor).contiguous() if name in changes else tensor
        save_file(tensors, target / path.name, {"format": "pt"})
    for path in text_files(source.folder):
        shutil.copyfile(path, target / path.name)
    if config:
        _write_indented(target / "config.json", changed_config(source.config, config))
    if (target / INDEX).exists():
        index = read_json(target / INDEX)
        index["weight_map"] = {name: source.place[stored].name for name, stored in sorted(sources.items())}
        total_size = sum(tensor.size for tensor in stored_tensors(target).values())
        index["metadata"] = {**index.get("metadata", {}), "total_size": total_size}
        _write_indented(target / INDEX, index)


def write_record(out: Path, folder: str, base: Path, files: Mapping[str, str], **facts: Any) -> dict[str, Any]:
    """Write out/model.json for the model in out/`folder`, made from `base`. Returns its facts.
    files: SHA-256 of every file that affects its answers."""
    weights = sum(path.stat().st_size for path in weight_files(out / folder))
    record = {**origin(base), "weight_bytes": weights, "files": dict(sorted(files.items())), **facts}
    write_json(out / MODEL_FILE, {"path": folder, **record})
    return record


def changed_config(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Apply `changes` to a model's configuration, wherever it stores the setting: the dtype has two names, and multi-part
    models keep the text model's settings in ``text_config``."""
    changed: dict[str, Any] = deepcopy(dict(config))
    sections = [changed]
    if isinstance(changed.get("text_config"), dict):
        sections.append(changed["text_config"])
    for key, value in changes.items():
        names = ("dtype", "torch_dtype") if key == "dtype" else (key,)
        present = [(section, name) for section in sections for name in names if name in section]
        for section, name in present or [(changed, key)]:
            section[name] = value
    return changed


def _write_indented(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
