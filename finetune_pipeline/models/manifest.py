"""Builds the manifest of an exported model: how to prompt it, and where it comes from."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from tokenizers import Tokenizer

from finetune_pipeline import __version__
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.files import digest_file, read_json
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.chat_templates import own_template, prompt_text
from finetune_pipeline.models.control_tokens import control_tokens
from finetune_pipeline.models.facts import MergedModel, PreparedBase
from finetune_pipeline.models.hosted import read_hosted
from finetune_pipeline.models.identity import BUNDLED

FORMAT = 1
_VERSIONS = ("torch", "transformers", "peft", "safetensors", "tokenizers")


class EvaluationRecord(Facts, frozen=True, kw_only=True):
    """The evaluation of an exported model.

    Attributes:
        version: Of the evaluation_report.
        passed: Whether this model was shipped; not where something simpler was.
        gates: Status by name.
        scores, baseline: On the sealed test, by name, of the model and of the base model.
    """

    version: str
    passed: bool
    verdict: str
    gates: Mapping[str, str]
    scores: Mapping[str, JsonValue]
    baseline: Mapping[str, JsonValue]


@dataclass(frozen=True)
class Source:
    """The source of an export: the artifacts of one trained model, and its spec, registry entry and report.

    card: the spec's section of that name. report: its evaluation, if it was evaluated, and evaluated: the record of it;
    model_version: its number in the registry, if it was registered. json_schema: that its answers are decoded under; None for
    free answers.
    """

    task: str
    description: str
    card: Mapping[str, Any]
    merged: Artifact
    adapter: Artifact
    base: Artifact
    report: Artifact | None = None
    evaluated: EvaluationRecord | None = None
    model_version: int | None = None
    json_schema: Mapping[str, Any] | None = None

    @property
    def model(self) -> MergedModel:
        """Facts of the merged model."""
        return self.merged.read(MergedModel)


def export_error(rule: str, message: str, fix: str = "export it --for vllm or transformers") -> FindingsError:
    """Return the error for a model that cannot be exported like this."""
    return FindingsError([Finding(rule, "error", "finetune export", message, fix)])


def base_model(source: Source) -> dict[str, Any]:
    """Return id, revision, identity (package version or digests), licence and licence_note of the base model. No paths."""
    if hosted := read_hosted(source.merged.folder):
        unknown = dict.fromkeys(("revision", "architecture", "parameters", "licence"))
        note = f"The terms of the service at {hosted.base_url} apply."
        return {"id": hosted.base_model, "identity": {}, "licence_note": note, "weights": {}, **unknown}
    return base_record(source.base)


def base_record(base: Artifact) -> dict[str, Any]:
    """Return the same of a ``base_model`` artifact."""
    facts = base.read(PreparedBase)
    name = str(facts.identity.get("base_model") or facts.base_model)
    bundled = BUNDLED.get(name)
    note = f"The licence of {name} also applies to every model made from it; read it there before you share this model."
    if bundled:
        note = "The base model's licence also applies to every model made from it."
    return {
        "id": name,
        "revision": facts.revision,
        "identity": facts.identity,
        "architecture": facts.architecture,
        "parameters": facts.parameters,
        "licence": bundled.license if bundled else None,
        "licence_note": note,
        "weights": {n: d for n, d in facts.files.items() if n.endswith(".safetensors")},
    }


def describe(source: Source, folder: Path, what: str, target: str = "transformers") -> dict[str, Any]:
    """Return the manifest of a model, without its files. folder: contains tokenizer and template; what: model, adapter, or
    registered (in the model registry, which stores the adapter and refers to the rest by digest); target: the server."""
    model, hosted = source.model, read_hosted(source.merged.folder)
    settings = read_json(source.adapter.path("artifact.json"))["settings"]
    serving, soft_tokens = model.serving, [] if what == "adapter" else model.soft_tokens
    template = None if hosted else next(folder.glob("chat_template.jinja"), None)
    return {
        "format": FORMAT,
        "task": source.task,
        "description": source.description,
        "what": what,
        "kind": model.kind,
        "target": target,
        "method": hosted.trainer if hosted else settings.get("method"),
        "model_version": source.model_version,
        "prompt": {
            "system_prompt": serving.system_prompt,
            "chat_template": template and template.name,
            "chat_template_sha256": template and digest_file(template),
            "rendered": None if hosted else prompt_text(folder, serving.system_prompt),
            "control_tokens": [] if hosted else folder_control_tokens(folder),
            "prompt_prefix": "".join(soft_tokens),
            "soft_tokens": soft_tokens,
        },
        "generation": {
            "do_sample": False,
            "temperature": 0,
            "max_new_tokens": serving.max_new_tokens,
            "stop_token_ids": serving.stop_token_ids,
            "stop_tokens": serving.stop_tokens,
            "json_schema": source.json_schema,
        },
        "labels": serving.labels,
        "dtype": model.dtype if what != "adapter" else "float32",
        "stored_float32_because": model.stored_float32_because,
        "base_model": base_model(source),
        "endpoint": hosted.to_json() if hosted else None,
        "artifacts": {
            "merged_model": source.merged.version,
            "adapter": source.adapter.version,
            "base_model": source.base.version,
            "dataset": source.adapter.inputs.get("train_split"),
            "adapter_sha256": model.adapter_sha256,
        },
        "training": settings,
        "parity": {k: v for k, v in model.parity.to_json().items() if k != "different"},
        "evaluation": source.evaluated.to_json() if source.evaluated else None,
        "card": dict(source.card),
        "versions": _versions(),
        "files": {},
    }


def folder_control_tokens(folder: Path) -> list[str]:
    """Return the control tokens that must not occur in user text, for servers that parse them anywhere in a prompt."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return []
    special, written = control_tokens(Tokenizer.from_file(str(path)), own_template(folder) or "")
    return sorted(special | written)


def _versions() -> dict[str, str]:
    versions = {"finetune_pipeline": __version__, "python": platform.python_version()}
    return versions | {name: metadata.version(name) for name in _VERSIONS}
