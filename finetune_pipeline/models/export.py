"""Exports a model folder that any server can load, with a manifest that says how to prompt it.

This module copies files, and loads no model. It writes the folder under a temporary name and then renames it:
the folder is complete when it appears.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from msgspec.structs import replace

from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.models.generation_settings import write_greedy_settings
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.manifest import (
    MANIFEST,
    ExportedFile,
    Manifest,
    Source,
    base_model,
    describe,
    export_error,
)
from finetune_pipeline.models.model_files import ADAPTER_CLASSES, ADAPTER_CONFIG, ADAPTER_WEIGHTS, MODEL_FILE
from finetune_pipeline.models.ollama import CONTEXT, modelfile

_TOKENIZER_PREFIXES = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "spiece", "chat_template")
_LICENCE_PATTERNS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
Card = Callable[[Manifest], str]
"""Makes README.md from the manifest."""


def export_model(source: Source, out: Path, card: Card, target: str = "transformers") -> Manifest:
    """Write the merged model with tokenizer, template, generation config, export.json and README.md into `out`.

    target: the server whose command README.md shows. Ollama also gets a Modelfile.
    Returns the manifest. Raises FindingsError for a prefix, a classifier for a server that serves none, an `out` that is not empty,
    too little disk space, and a chat template that Ollama cannot be given.
    """
    if source.model.kind == "prefix":
        message = "a prefix consists of keys and values of every layer: a plain model has no weights for it"
        fix = "export the adapter with --adapter and serve it with PEFT; or train with method: prompt or lora"
        raise export_error("export.prefix", message, fix)
    if source.model.kind == "classifier" and target not in ("transformers", "vllm"):
        message = f"a classifier writes no text, and {target} serves only models that do"
        raise export_error(
            "export.classifier", message, "export it --for vllm or transformers; or train with method: lora"
        )
    folder, files = model_folder(source.merged.folder), source.model.files
    with unfinished(out, sum((folder / name).stat().st_size for name in files)) as staging:
        for name in files:
            shutil.copyfile(folder / name, staging / name)
        serving = source.model.serving
        write_greedy_settings(staging, max_new_tokens=serving.max_new_tokens, eos_token_id=serving.stop_token_ids)
        config = read_json(staging / "config.json")
        if os.path.isabs(str(config.get("_name_or_path", ""))):  # no paths of this machine
            del config["_name_or_path"]
            write_json(staging / "config.json", config)
        if target == "ollama":
            context = min(CONTEXT, config.get("max_position_embeddings", CONTEXT))
            (staging / "Modelfile").write_text(modelfile(folder, serving, context), "utf-8")
        return _finish(source, staging, "model", card, target)


def export_adapter(source: Source, out: Path, card: Card, target: str = "transformers") -> Manifest:
    """Write the adapter alone, with the tokenizer and template it was trained with, export.json and README.md.
    Returns the manifest. Raises FindingsError after a full fine-tune, which has no adapter, and for `out` like export_model."""
    if source.model.kind == "full":
        fix = "export the model: omit --adapter"
        raise export_error("export.no_adapter", "a full fine-tune has no adapter", fix)
    folder, tokenizer_folder = source.adapter.path("adapter"), model_folder(source.base.folder)
    with unfinished(out, sum(p.stat().st_size for p in folder.iterdir())) as staging:
        own_files = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, *([ADAPTER_CLASSES] if source.model.kind == "classifier" else []))
        for name in own_files:
            shutil.copyfile(folder / name, staging / name)
        for path in sorted(tokenizer_folder.iterdir()):
            adapter_copy = folder / path.name
            if path.is_file() and path.name.startswith(_TOKENIZER_PREFIXES):
                shutil.copyfile(adapter_copy if adapter_copy.is_file() else path, staging / path.name)
        base, config = base_model(source), read_json(staging / ADAPTER_CONFIG)
        config |= {"base_model_name_or_path": base.id, "revision": base.revision}
        write_json(staging / ADAPTER_CONFIG, config)
        return _finish(source, staging, "adapter", card, target)


def _finish(source: Source, staging: Path, what: str, card: Card, target: str) -> Manifest:
    """Add the base's licences, the manifest and README.md to the staged files. Returns the manifest.
    what: "model" or "adapter"."""
    base = model_folder(source.base.folder)
    for path in (path for pattern in _LICENCE_PATTERNS for path in base.glob(pattern) if path.is_file()):
        shutil.copyfile(path, staging / path.name)
    (staging / MODEL_FILE).unlink(missing_ok=True)
    manifest = replace(describe(source, staging, what, target), files=ExportedFile.of_folder(staging))
    write_json(staging / MANIFEST, manifest.to_json())
    (staging / "README.md").write_text(card(manifest), "utf-8")
    for path in staging.iterdir():
        path.chmod(0o644)  # another user may serve it
    return manifest


@contextlib.contextmanager
def unfinished(out: Path, size: int) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` when the block succeeds, and is removed otherwise.

    Also removes the temporary folders of killed exports. Raises FindingsError if `out` is not empty, or if the disk has less
    than `size` bytes free.
    """
    out = out.absolute()
    check_place(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    for leftover in out.parent.glob(f".{out.name}.unfinished-*"):
        process_id = leftover.name.rpartition("-")[2]
        if process_id.isdigit() and not psutil.pid_exists(int(process_id)):
            shutil.rmtree(leftover, ignore_errors=True)
    free = shutil.disk_usage(out.parent).free
    if free < size * 1.05:
        message = f"the export takes {size / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free there"
        fix = "free some space, or choose another --to"
        raise export_error("export.disk", message, fix)
    staging = out.parent / f".{out.name}.unfinished-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        os.rename(staging, out)  # onto nothing, or onto an empty folder
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def check_place(out: Path) -> None:
    """Raise FindingsError unless `out` is missing or an empty folder."""
    if out.is_symlink() or (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir())):
        message = f"{out.name!r} already exists and is not an empty folder"
        fix = "choose a new folder for --to, or remove that one: nothing is overwritten"
        raise export_error("export.not_empty", message, fix)
