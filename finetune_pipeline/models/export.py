"""A model folder for the world outside: what any server loads, and a manifest of everything one needs to ask it right.

Only copies and writes text: no model is loaded here. The folder is made beside its place and renamed into it, so that
nobody ever sees half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune_pipeline import __version__
from finetune_pipeline.engine.store import Artifact, digest_file, read_json, write_json
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.identity import BUNDLED, MODEL_FILE, model_folder, model_record
from finetune_pipeline.models.prompt_text import prompt_text

MANIFEST = "export.json"
FORMAT = 1
_VERSIONS = ("torch", "transformers", "peft", "safetensors", "tokenizers")
_TOKENIZER = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "spiece", "chat_template")
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "do_sample", "max_length")
_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Source:
    """What is passed on: the artifacts of one trained model, and what spec, registry and report say of it.

    card: the spec's section of that name. report: its evaluation, if it was evaluated; model_version: its number in the
    registry, if it was registered.
    """

    task: str
    description: str
    card: Mapping[str, Any]
    merged: Artifact
    adapter: Artifact
    base: Artifact
    report: Artifact | None = None
    model_version: int | None = None

    @property
    def kind(self) -> str:
        """lora, full, prompt or prefix."""
        return str(self.merged.facts["kind"])

    @property
    def serving(self) -> Mapping[str, Any]:
        """How the model is asked (see merging.merge_and_compare)."""
        told: Mapping[str, Any] = self.merged.facts["serving"]
        return told


Card = Callable[[dict[str, Any]], str]


def export_model(
    source: Source, out: Path, card: Card, gguf: Callable[[Path, Path], None] | None = None
) -> dict[str, Any]:
    """Write the merged model with tokenizer, template, generation config, export.json and README.md into `out`.

    card: makes README.md from the manifest. gguf: writes the model folder given first as the file given second, which
    becomes part of the export.
    Returns the manifest. Raises FindingsError for a prefix (no plain model can hold it), files that are not what the
    artifact says they are, an `out` that is not empty, and too little room.
    """
    if source.kind == "prefix":
        raise FindingsError(
            [
                _finding(
                    "prefix",
                    "a prefix is keys and values of every layer: no weight of a plain model can hold it",
                    "export the adapter with --adapter and serve it with PEFT; or train with method: prompt or lora",
                )
            ]
        )
    folder, told = model_folder(source.merged.folder), dict(source.merged.facts["files"])
    with unfinished(out, sum((folder / name).stat().st_size for name in told)) as making:
        digests = {}
        for name, digest in sorted(told.items()):
            digests[name] = _copy(folder / name, making / name)
            if digests[name] != digest:
                raise FindingsError(
                    [
                        _finding(
                            "changed_file",
                            f"{name} of the artifact {source.merged.version} is not what was written when it was made",
                            f"remove the artifact's folder and run `finetune run {source.task}` again",
                        )
                    ]
                )
        _greedy(making, source.serving)
        _without_paths(making / "config.json")
        if gguf is not None:
            gguf(making, making / f"{source.task}.gguf")
        manifest = _finish(source, making, "model", card)
    return manifest


def export_adapter(source: Source, out: Path, card: Card) -> dict[str, Any]:
    """Write the adapter alone, with the tokenizer and template it was trained with, export.json and README.md.

    Returns the manifest. Raises FindingsError where a full fine-tune left no adapter, and for `out` as export_model.
    """
    if source.kind == "full":
        raise FindingsError(
            [_finding("no_adapter", "a full fine-tune has no adapter", "export the model: leave --adapter out")]
        )
    folder, tokenizer = source.adapter.path("adapter"), model_folder(source.base.folder)
    with unfinished(out, sum(p.stat().st_size for p in folder.iterdir())) as making:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            _copy(folder / name, making / name)
        for path in sorted(tokenizer.iterdir()):
            own = folder / path.name
            if path.is_file() and path.name.startswith(_TOKENIZER):
                _copy(own if own.is_file() else path, making / path.name)
        config = read_json(making / "adapter_config.json")
        config |= {"base_model_name_or_path": base_model(source)["id"], "revision": base_model(source)["revision"]}
        write_json(making / "adapter_config.json", config)
        manifest = _finish(source, making, "adapter", card)
    return manifest


def base_model(source: Source) -> dict[str, Any]:
    """id, revision, identity (package version or digests), licence and licence_note of the base model. No paths."""
    record = model_record(source.base.folder)
    identity = dict(record.get("identity") or {})
    name = str(identity.get("base_model") or record["base_model"])
    bundled = BUNDLED.get(name)
    note = (
        "The base model's own licence goes on to hold for every model made from it."
        if bundled
        else f"The licence of {name} goes on to hold for every model made from it; read it there before you pass this on."
    )
    return {
        "id": name,
        "revision": record.get("revision"),
        "identity": identity,
        "architecture": source.base.facts.get("architecture"),
        "parameters": source.base.facts.get("parameters"),
        "licence": bundled.license if bundled else None,
        "licence_note": note,
        "weights": {n: d for n, d in (record.get("files") or {}).items() if n.endswith(".safetensors")},
    }


def describe(source: Source, folder: Path, what: str) -> dict[str, Any]:
    """The manifest of a model without its files. folder: where tokenizer and template lie; what: model, adapter, or
    registered (in the model registry, which keeps the adapter and knows the rest by digest)."""
    serving, settings = source.serving, _settings(source.adapter)
    plain = what != "adapter" and source.kind == "prompt"
    template = folder / "chat_template.jinja"
    evaluated = None
    if source.report is not None:
        facts = source.report.facts
        evaluated = {
            "version": source.report.version,
            "passed": bool(facts["passed"]),
            "verdict": facts["verdict"],
            "gates": {g["name"]: g["status"] for g in facts["gates"]},
            "scores": {k: v for k, v in facts["models"]["candidate"].items() if k != "title"},
            "baseline": {k: v for k, v in facts["models"].get("base", {}).items() if k != "title"},
        }
    return {
        "format": FORMAT,
        "task": source.task,
        "description": source.description,
        "what": what,
        "method": settings.get("method"),
        "model_version": source.model_version,
        "prompt": {
            "system_prompt": serving["system_prompt"],
            "chat_template": template.name if template.is_file() else None,
            "chat_template_sha256": digest_file(template) if template.is_file() else None,
            "rendered": prompt_text(folder, serving["system_prompt"]),
            "prompt_prefix": source.merged.facts["prompt_prefix"] if plain else "",
            "soft_tokens": source.merged.facts["soft_tokens"] if plain else [],
        },
        "generation": {
            "do_sample": False,
            "temperature": 0,
            "max_new_tokens": serving["max_new_tokens"],
            "stop_token_ids": serving["stop_token_ids"],
            "stop_tokens": serving["stop_tokens"],
        },
        "labels": serving["labels"],
        "dtype": source.merged.facts["dtype"] if what != "adapter" else "float32",
        "stored_float32_because": source.merged.facts.get("stored_float32_because"),
        "base_model": base_model(source),
        "artifacts": {
            "merged_model": source.merged.version,
            "adapter": source.adapter.version,
            "base_model": source.base.version,
            "dataset": source.adapter.inputs.get("train_split"),
            "adapter_sha256": source.merged.facts.get("adapter_sha256"),
        },
        "training": settings,
        "parity": {k: v for k, v in source.merged.facts["parity"].items() if k != "different"},
        "evaluation": evaluated,
        "card": dict(source.card),
        "versions": _versions(),
        "files": {},
    }


def _settings(artifact: Artifact) -> dict[str, Any]:
    """The settings an artifact was made with, as its manifest keeps them."""
    told = read_json(artifact.path("artifact.json"))["settings"]
    return dict(told) if isinstance(told, dict) else {"settings": told}


def _versions() -> dict[str, str]:
    found = {"finetune_pipeline": __version__, "python": platform.python_version()}
    for name in _VERSIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _greedy(folder: Path, serving: Mapping[str, Any]) -> None:
    """The base's generation config with the settings the model was measured with: greedy, and no longer than needed."""
    path = folder / "generation_config.json"
    told = read_json(path) if path.is_file() else {}
    told = {k: v for k, v in told.items() if k not in _SAMPLING}
    ends = serving["stop_token_ids"]
    told |= {"do_sample": False, "max_new_tokens": serving["max_new_tokens"], "eos_token_id": ends}
    write_json(path, dict(sorted(told.items())))


def _without_paths(path: Path) -> None:
    """A configuration may remember the folder it was loaded from, which is nobody's business elsewhere."""
    config = read_json(path)
    if os.path.isabs(str(config.get("_name_or_path", ""))):
        del config["_name_or_path"]
        write_json(path, config)


def _finish(source: Source, making: Path, what: str, card: Card) -> dict[str, Any]:
    base = model_folder(source.base.folder)
    for pattern in _LICENCES:
        for path in sorted(base.glob(pattern)):
            if path.is_file():
                _copy(path, making / path.name)
    (making / MODEL_FILE).unlink(missing_ok=True)
    manifest = describe(source, making, what)
    manifest["files"] = {
        p.name: {"sha256": digest_file(p), "bytes": p.stat().st_size} for p in sorted(making.iterdir()) if p.is_file()
    }
    write_json(making / MANIFEST, manifest)
    (making / "README.md").write_text(card(manifest), "utf-8")
    for path in making.iterdir():
        path.chmod(0o644)  # whoever serves it may be another user
    return manifest


def _copy(source: Path, target: Path) -> str:
    """Copy a file; returns its SHA-256."""
    digest = hashlib.sha256()
    with source.open("rb") as old, target.open("wb") as new:
        while piece := old.read(_CHUNK):
            digest.update(piece)
            new.write(piece)
        new.flush()
        os.fsync(new.fileno())
    return digest.hexdigest()


@contextlib.contextmanager
def unfinished(out: Path, size: int) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` when the block ends well, and is removed when it does not.

    Folders that a killed export has left there are removed, too. Raises FindingsError when `out` is not empty, or when the
    disk has less than `size` bytes left.
    """
    out = out.absolute()
    check_place(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    for old in out.parent.glob(f".{out.name}.unfinished-*"):
        number = old.name.rpartition("-")[2]
        if number.isdigit() and not _alive(int(number)):
            shutil.rmtree(old, ignore_errors=True)
    free = shutil.disk_usage(out.parent).free
    if free < size * 1.05:
        raise FindingsError(
            [
                _finding(
                    "disk",
                    f"the export takes {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are left there",
                    "make room, or give another --to",
                )
            ]
        )
    making = out.parent / f".{out.name}.unfinished-{os.getpid()}"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    try:
        yield making
        os.rename(making, out)  # onto nothing, or onto an empty folder
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


def check_place(out: Path) -> None:
    """Raises FindingsError unless `out` is no file and holds nothing."""
    if out.is_symlink() or (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir())):
        raise FindingsError(
            [
                _finding(
                    "not_empty",
                    f"{out.name!r} is there already and is no empty folder",
                    "give a new folder as --to, or remove that one: nothing is ever overwritten",
                )
            ]
        )


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _finding(rule: str, message: str, fix: str) -> Finding:
    return Finding(f"export.{rule}", "error", "finetune export", message, fix)
