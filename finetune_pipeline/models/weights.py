"""Reads a model folder's weights as named tensors over one or many files, and writes copies with changed tensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from finetune_pipeline.engine.files import digest_file, read_json, write_json
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.identity import origin
from finetune_pipeline.models.model_files import (
    EMBEDDINGS,
    HEADS,
    INDEX,
    MODEL_FILE,
    StoredTensor,
    text_files,
    weight_files,
)
from finetune_pipeline.models.streaming import TORCH_TYPES, TensorFile, new_tensor, write_tensors


class Checkpoint:
    """The weights of a transformers folder. `files`: the files in use, in order; `place`: the file of each tensor."""

    def __init__(self, folder: Path) -> None:
        """Raises FindingsError and DamagedFile like weight_files and TensorFile, JobError for a tensor in two files."""
        self.folder = folder
        self.config: dict[str, Any] = read_json(folder / "config.json")
        self.files = [TensorFile(p) for p in weight_files(folder)]
        self.place: dict[str, TensorFile] = {}
        for file in self.files:
            for name in file.entries:
                if name in self.place:
                    raise JobError(
                        f"{folder.name}: the tensor {name} is in {self.place[name].path.name} and in {file.path.name}",
                        "fetch the model again",
                    )
                self.place[name] = file

    def entry(self, name: str) -> StoredTensor:
        """Return the dtype and shape of a tensor. Raises KeyError."""
        return self.place[name].entries[name]

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


Make = Callable[[TensorFile], Iterator[torch.Tensor | memoryview]]
"""Takes the file that stores a tensor; yields the pieces of the new tensor in order."""


@dataclass
class Output:
    """The recipe for one tensor of the copy: `make` computes it from the stored tensor `source` (`make` None: unchanged), and it is
    written into `file`."""

    planned: StoredTensor
    file: str
    source: str
    make: Make | None = None


@dataclass
class Copy:
    """A planned copy of a checkpoint: `outputs` by tensor name, changes of `config`, and unchanged files."""

    source: Checkpoint
    outputs: dict[str, Output] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Checkpoint) -> Copy:
        return cls(source, {n: Output(file.entries[n], file.path.name, n) for n, file in source.place.items()})

    def change(self, name: str, make: Make, *, dtype: str | None = None, shape: tuple[int, ...] | None = None) -> None:
        """Replace a tensor by the result of `make`, with `dtype` and `shape` (default: unchanged)."""
        old = self.outputs[name]
        planned = new_tensor(dtype or old.planned.dtype, shape or old.planned.shape)
        self.outputs[name] = Output(planned, old.file, old.source, make)

    def add(self, name: str, like: str) -> None:
        """Add a tensor, initially a copy of the stored tensor `like`, in the same file."""
        self.outputs[name] = Output(self.source.entry(like), self.outputs[like].file, like)

    def write(self, target: Path) -> dict[str, str]:
        """Write weights, index, configuration and the other files into `target`. Returns {file: sha256}."""
        target.mkdir(parents=True, exist_ok=True)
        digests: dict[str, str] = {}
        outputs_by_file: dict[str, dict[str, Output]] = {}
        for name, output in self.outputs.items():
            outputs_by_file.setdefault(output.file, {})[name] = output
        metadata = {f.path.name: f.metadata for f in self.source.files}
        for file, outputs in sorted(outputs_by_file.items()):
            tensors = {name: output.planned for name, output in outputs.items()}
            digests[file] = write_tensors(target / file, tensors, self._pieces, metadata[file] or {"format": "pt"})
        self._write_other_files(target)
        digests |= {path.name: digest_file(path) for path in target.iterdir() if path.name not in digests}
        return dict(sorted(digests.items()))

    def _pieces(self, name: str) -> Iterator[torch.Tensor | memoryview]:
        output = self.outputs[name]
        file = self.source.place[output.source]
        yield from output.make(file) if output.make else file.pieces(output.source)

    def _write_other_files(self, target: Path) -> None:
        source = self.source.folder
        for path in text_files(source):
            shutil.copyfile(path, target / path.name)
        if self.config:
            _write_indented(target / "config.json", changed_config(self.source.config, self.config))
        if (source / INDEX).exists():
            index = read_json(source / INDEX)
            index["weight_map"] = {name: output.file for name, output in sorted(self.outputs.items())}
            index["metadata"] = {**index.get("metadata", {}), "total_size": self.bytes()}
            _write_indented(target / INDEX, index)

    @property
    def dtypes(self) -> str:
        """Return the tensor dtypes as text: ``bfloat16+float32``."""
        stored = {output.planned.dtype for output in self.outputs.values()}
        return "+".join(sorted(str(TORCH_TYPES.get(dtype, dtype.lower())).removeprefix("torch.") for dtype in stored))

    def bytes(self) -> int:
        return sum(output.planned.size for output in self.outputs.values())


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
