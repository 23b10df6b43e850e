"""Reads a model folder's weights as named tensors over one or many files, and writes copies with changed tensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from safetensors.torch import load_file

from finetune_pipeline.engine.files import digest_file, read_json, write_json
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.facts import StoredModel
from finetune_pipeline.models.identity import model_record
from finetune_pipeline.models.model_files import (
    EMBEDDINGS,
    HEADS,
    INDEX,
    MODEL_FILE,
    StoredTensor,
    tensor_header,
    text_files,
    weight_files,
)


class Checkpoint:
    """The weights of a transformers folder. `files`: the files in use, in order; `place`: the file of each tensor;
    `entries`: its dtype and shape."""

    def __init__(self, folder: Path) -> None:
        """Raises FindingsError and DamagedFile like weight_files and tensor_header, JobError for a tensor in two files."""
        self.folder = folder
        self.config: dict[str, Any] = read_json(folder / "config.json")
        self.files = weight_files(folder)
        self.place: dict[str, Path] = {}
        self.entries: dict[str, StoredTensor] = {}
        for file in self.files:
            entries, _ = tensor_header(file)
            for name in entries:
                if name in self.place:
                    raise JobError(
                        f"{folder.name}: the tensor {name} is in {self.place[name].name} and in {file.name}",
                        "fetch the model again",
                    )
                self.place[name] = file
            self.entries |= entries

    def tensor(self, name: str) -> torch.Tensor:
        """Read a tensor. Raises KeyError."""
        with safe_open(self.place[name], "pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all tensors, mapped into memory from their files."""
        return {name: tensor for file in self.files for name, tensor in load_file(file).items()}

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
    def heads(self) -> set[str]:
        """The names of all tensors of output heads."""
        return {name for name in self.place if name.endswith(HEADS)}

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

    def write_copy(
        self,
        target: Path,
        tensors: Mapping[str, torch.Tensor],
        config: Mapping[str, object],
        without: Collection[str] = (),
    ) -> str:
        """Write a copy of the folder with other or further `tensors`, `without` some, and changes of config.json; files are divided
        as transformers does. Returns the dtypes of its tensors, see :func:`dtypes`."""
        target.mkdir(parents=True, exist_ok=True)
        written = {name: tensor for name, tensor in {**self.tensors(), **tensors}.items() if name not in without}
        save_torch_state_dict(written, target)
        for path in text_files(self.folder):
            if path.name != INDEX:
                shutil.copyfile(path, target / path.name)
        if config:
            text = json.dumps(changed_config(self.config, config), indent=2, ensure_ascii=False)
            (target / "config.json").write_text(text + "\n", "utf-8")
        return dtypes(written)


def dtypes(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the dtypes of tensors as text: ``bfloat16+float32``."""
    return "+".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}))


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder."""
    return {path.name: digest_file(path) for path in sorted(folder.iterdir())}


def write_record(
    out: Path,
    folder: str,
    base: Path,
    files: Mapping[str, str],
    *,
    kind: str,
    dtype: str,
    adapter_sha256: str | None = None,
    merged_tensors: int | None = None,
    scaling: float | None = None,
    soft_tokens: Mapping[str, int] | None = None,
) -> StoredModel:
    """Write out/model.json for the model in out/`folder`, made from `base`. Returns its facts, whose fields are the arguments.
    soft_tokens: ids of added tokens by name."""
    origin = model_record(base)
    model = StoredModel(
        kind=kind,
        base_model=origin.base_model,
        revision=origin.revision,
        dtype=dtype,
        weight_bytes=sum(path.stat().st_size for path in weight_files(out / folder)),
        files=dict(sorted(files.items())),
        adapter_sha256=adapter_sha256,
        merged_tensors=merged_tensors,
        scaling=scaling,
        soft_tokens=list(soft_tokens or ()),
        soft_ids=list((soft_tokens or {}).values()),
    )
    write_json(out / MODEL_FILE, {"path": folder, **model.to_json()})
    return model


def changed_config(config: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
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
