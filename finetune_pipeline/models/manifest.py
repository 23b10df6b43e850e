"""Builds the manifest of an exported model: how to prompt it, and where it comes from."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from tokenizers import Tokenizer

from finetune_pipeline import __version__
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.files import digest_file, read_json
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.chat_templates import own_template, prompt_text
from finetune_pipeline.models.control_tokens import control_tokens
from finetune_pipeline.models.facts import MergedModel, Parity, PreparedBase
from finetune_pipeline.models.hosted import HostedModel, read_hosted
from finetune_pipeline.models.identity import BUNDLED
from finetune_pipeline.spec.model import CardSpec

FORMAT = 1
MANIFEST = "export.json"
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
    scores: Mapping[str, object]
    baseline: Mapping[str, object]


class ExportedFile(Facts, frozen=True, kw_only=True):
    """A file of an export."""

    sha256: str
    bytes: int

    @classmethod
    def of_folder(cls, folder: Path) -> dict[str, "ExportedFile"]:
        """Return the files of a folder by name."""
        paths = [path for path in sorted(folder.iterdir()) if path.is_file()]
        return {path.name: cls(sha256=digest_file(path), bytes=path.stat().st_size) for path in paths}


class BaseRecord(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """A base model in a manifest. No paths. None: of a hosted model, unknown.

    Attributes:
        id: Its name; revision: on the hub.
        identity: Package version or digests (models.identity.base_identity).
        weights: SHA-256 of its weight files.
    """

    id: str
    revision: str | None = None
    identity: Mapping[str, object]
    architecture: str | None = None
    parameters: int | None = None
    licence: str | None = None
    licence_note: str
    weights: Mapping[str, str]


class Prompting(Facts, frozen=True, kw_only=True):
    """How to prompt an exported model.

    Attributes:
        chat_template: Name of the template's file in the folder; it and its digest are None without one.
        rendered: A conversation as the template renders it; None for a hosted model.
        control_tokens: Must not occur in user text.
        prompt_prefix: The soft tokens joined, which plain text starts with.
    """

    system_prompt: str | None
    chat_template: str | None
    chat_template_sha256: str | None
    rendered: str | None
    control_tokens: list[str]
    prompt_prefix: str
    soft_tokens: list[str]


class Greedy(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """Settings of greedy generation, as in the evaluation."""

    do_sample: bool = False
    temperature: int = 0
    max_new_tokens: int


class Generation(Greedy, frozen=True, kw_only=True, omit_defaults=False):
    """Those of a trained model. json_schema: that its answers are decoded under; None for free ones."""

    stop_token_ids: list[int]
    stop_tokens: list[str]
    json_schema: Mapping[str, object] | None


class Origin(Facts, frozen=True, kw_only=True):
    """Versions of the artifacts of an exported model, and its adapter's digest."""

    merged_model: str
    adapter: str
    base_model: str
    dataset: str | None
    adapter_sha256: str | None


class Manifest(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """The manifest of a trained model: export.json of its folder.

    Attributes:
        what: model, adapter, or registered (in the model registry, which stores the adapter and refers to the rest by digest).
        kind: How it was merged (models.facts.StoredModel).
        target: The server that its README.md describes.
        method: How it was trained: `training.method`, or the trainer that hosts it.
        endpoint: Of a hosted model.
        training: Settings.
        card: What the task declares for the card.
        versions: Of the packages that made it.
        files: Those of the folder, except for the manifest itself and README.md.
    """

    format: int
    task: str
    description: str
    what: str
    kind: str
    target: str
    method: str | None
    model_version: int | None
    prompt: Prompting
    generation: Generation
    labels: list[str]
    dtype: str
    stored_float32_because: str | None
    base_model: BaseRecord
    endpoint: HostedModel | None
    artifacts: Origin
    training: Mapping[str, object]
    parity: Parity
    evaluation: EvaluationRecord | None
    card: CardSpec
    versions: Mapping[str, str]
    files: Mapping[str, ExportedFile]


@dataclass(frozen=True)
class Source:
    """The source of an export: the artifacts of one trained model, and its spec, registry entry and report.

    card: the spec's section of that name. report: its evaluation, if it was evaluated, and evaluated: the record of it;
    model_version: its number in the registry, if it was registered. json_schema: that its answers are decoded under; None for
    free answers.
    """

    task: str
    description: str
    card: CardSpec
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


def base_model(source: Source) -> BaseRecord:
    """Return the record of the base model."""
    if hosted := read_hosted(source.merged.folder):
        note = f"The terms of the service at {hosted.base_url} apply."
        return BaseRecord(id=hosted.base_model, identity={}, licence_note=note, weights={})
    return base_record(source.base)


def base_record(base: Artifact) -> BaseRecord:
    """Return the record of a ``base_model`` artifact."""
    facts = base.read(PreparedBase)
    name = str(facts.identity.get("base_model") or facts.base_model)
    bundled = BUNDLED.get(name)
    note = f"The licence of {name} also applies to every model made from it; read it there before you share this model."
    if bundled:
        note = "The base model's licence also applies to every model made from it."
    return BaseRecord(
        id=name,
        revision=facts.revision,
        identity=facts.identity,
        architecture=facts.architecture,
        parameters=facts.parameters,
        licence=bundled.license if bundled else None,
        licence_note=note,
        weights={name: digest for name, digest in facts.files.items() if name.endswith(".safetensors")},
    )


def describe(source: Source, folder: Path, what: str, target: str = "transformers") -> Manifest:
    """Return the manifest of a model, without its files. folder: contains tokenizer and template; what, target: see Manifest."""
    model, hosted = source.model, read_hosted(source.merged.folder)
    settings = read_json(source.adapter.path("artifact.json"))["settings"]
    serving, soft_tokens = model.serving, [] if what == "adapter" else model.soft_tokens
    template = None if hosted else next(folder.glob("chat_template.jinja"), None)
    return Manifest(
        format=FORMAT,
        task=source.task,
        description=source.description,
        what=what,
        kind=model.kind,
        target=target,
        method=hosted.trainer if hosted else settings.get("method"),
        model_version=source.model_version,
        prompt=Prompting(
            system_prompt=serving.system_prompt,
            chat_template=template.name if template else None,
            chat_template_sha256=digest_file(template) if template else None,
            rendered=None if hosted else prompt_text(folder, serving.system_prompt),
            control_tokens=[] if hosted else folder_control_tokens(folder),
            prompt_prefix="".join(soft_tokens),
            soft_tokens=soft_tokens,
        ),
        generation=Generation(
            max_new_tokens=serving.max_new_tokens,
            stop_token_ids=serving.stop_token_ids,
            stop_tokens=serving.stop_tokens,
            json_schema=source.json_schema,
        ),
        labels=serving.labels,
        dtype=model.dtype if what != "adapter" else "float32",
        stored_float32_because=model.stored_float32_because,
        base_model=base_model(source),
        endpoint=hosted,
        artifacts=Origin(
            merged_model=source.merged.version,
            adapter=source.adapter.version,
            base_model=source.base.version,
            dataset=source.adapter.inputs.get("train_split"),
            adapter_sha256=model.adapter_sha256,
        ),
        training=settings,
        parity=replace(model.parity, different=None),
        evaluation=source.evaluated,
        card=source.card,
        versions=_versions(),
        files={},
    )


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
