"""Preflight checks: finds problems of the spec, base model or chat template that prevent training, before loading anything.

``finetune check`` and ``finetune run`` run them, the graph at the start of a run, and again ``training_plan``, which has the
base model's folder. Imports neither torch nor a model library.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError

from finetune_pipeline.data.examples import Message
from finetune_pipeline.evaluation.simple_models.encoders import encoder_files
from finetune_pipeline.evaluation.simple_models.static_encoder import embedding_files
from finetune_pipeline.findings import Finding, FindingsError, errors
from finetune_pipeline.models.chat import encode_example, end_of_turn_token
from finetune_pipeline.models.chat_templates import (
    NAMED,
    compile_template,
    fixed_template,
    missing_marks,
    missing_tokens,
    no_template,
    no_tokenizer,
    own_template,
    read_chat_template,
    template_findings,
    template_origin,
    usable_templates,
)
from finetune_pipeline.models.hardware import cpu_has_bfloat16, has_nvidia
from finetune_pipeline.models.identity import BUNDLED, bundled_files, local_base, model_folder, model_kind, model_record
from finetune_pipeline.models.model_files import base_error, quantization, read_config, text_settings, weight_files
from finetune_pipeline.planning.shape import model_shape
from finetune_pipeline.planning.tokens import TokenCounter, load_tokenizer_file
from finetune_pipeline.spec import rules
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import TaskSpec

_SIZES = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
_OTHER_SIZES = ("max_position_embeddings", "intermediate_size")
"""Sizes that a config.json may lack."""
_NO_TEXT = ("ForMaskedLM", "ForQuestionAnswering", "ForSequenceClassification", "ForTokenClassification")
"""Ends of the names of transformers' classes of encoders and classifiers."""
_TOKENIZERS = ("*.model", "vocab.*")
"""Tokenizer files that a model library can convert."""
_LEAST_ROOM = 16
"""Minimum of training.max_tokens."""
SPEC_RULES = (rules.check_batches, rules.check_epochs, rules.check_method)
_BUNDLED_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
"""Linear layers of a block of every bundled model."""


def preflight(spec: TaskSpec, folder: Path, base: Path | None = None) -> list[Finding]:
    """Return all findings, errors and warnings, each with a fix.

    folder: the task's. base: the artifact of the ``base_model`` step. Without it, a local base is checked in place, and a
    bundled one by its known facts; a hub model can only be checked after its download.
    """
    if base is not None:
        model_path = model_folder(base)
        return [
            *refusals(spec, read_config(model_path), model_path),
            *_unusable_template(spec, model_path, own_template(model_path)),
            *model_record(base).warnings,
        ]
    try:
        config, local_folder = _base(spec)
    except FindingsError as error:
        return [*refusals(spec, None), *error.findings]
    return [*refusals(spec, config, local_folder), *_template_problems(spec, folder, local_folder)]


def _template_problems(spec: TaskSpec, folder: Path, base: Path | None) -> list[Finding]:
    """Return findings about the task's chat template, or the model's own."""
    if unknown := list(rules.check_chat_template(spec, folder)):
        return unknown
    try:
        template = read_chat_template(spec.chat_template, folder)
        if template is not None:
            compile_template(template, template_origin(spec.chat_template, folder))
        return _template(spec, template, base)
    except FindingsError as error:
        return error.findings
    except TemplateSyntaxError as error:
        place = f"{spec.chat_template or f'the template of {spec.base_model}'}:{error.lineno}"
        message, fix = f"the chat template is not valid Jinja: {error.message}", "correct the template"
        return [Finding("model.chat_template", "error", place, message, fix)]


def _base(spec: TaskSpec) -> tuple[dict[str, object] | None, Path | None]:
    """Return (config.json or its known parts, the model's folder if it exists).
    Raises FindingsError if the base model is unavailable."""
    kind = model_kind(spec.base_model, spec.base_revision)
    if kind == "bundled":
        bundled_files(spec.base_model)
        return dict(BUNDLED[spec.base_model].config), None
    if kind == "hub":
        return None, None
    local = local_base(spec.base_model)
    config = read_config(local)
    if not config.get("model_type"):
        message = f"{spec.base_model!r} has no config.json of a model in the transformers format, with its model_type"
        fix = "name a folder that `save_pretrained` has written"
        raise base_error(message, fix, "folder")
    weight_files(local)
    return config, local


def _template(spec: TaskSpec, template: str | None, base: Path | None) -> list[Finding]:
    if base is None:
        bundled = BUNDLED.get(spec.base_model)
        if bundled is None or not bundled.templates:
            return []
        name = spec.base_model
        if template is None:
            return [no_template(name, bundled.templates)]
        template_tokens = {mark for choice in bundled.templates for mark in missing_marks(NAMED[choice], ())}
        missing = missing_marks(template, template_tokens)
        return [missing_tokens(name, missing, bundled.templates)] if missing else []
    tokenizer = load_tokenizer_file(base)
    if tokenizer is None:
        # with a template from task.yaml, base_model writes tokenizer.json itself from these files
        convertible = [file for pattern in _TOKENIZERS for file in base.glob(pattern)] if template else []
        return [] if convertible else [no_tokenizer(spec.base_model)]
    findings = template_findings(base, template, spec.base_model, tokenizer.get_vocab())
    text = template or fixed_template(base)
    return findings if errors(findings) else findings + _unusable_template(spec, base, text)


def _unusable_template(spec: TaskSpec, base: Path, template: str | None) -> list[Finding]:
    """Return why no row can be trained with a template: it never ends an answer, serves another text, or refuses the turns."""
    tokenizer = load_tokenizer_file(base)
    if tokenizer is None or template is None:
        return []
    turns: list[Message] = [{"role": "system", "content": spec.system_prompt}]
    turns += [{"role": role, "content": "a"} for role in ("user", "assistant")]
    try:
        counter = TokenCounter(base, template)
    except FindingsError as error:
        return error.findings
    fix = " or ".join(usable_templates(tokenizer.get_vocab()))
    findings = []
    for probe in (partial(end_of_turn_token, counter), partial(encode_example, counter, turns)):
        try:
            probe()
        except FindingsError as error:
            place = f"model {spec.base_model}"
            findings += [replace(f, place=place, fix=f"{f.fix}; or set chat_template: {fix}") for f in error.findings]
    return findings


def refusals(spec: TaskSpec, base_config: Mapping[str, object] | None, base: Path | None = None) -> list[Finding]:
    """Return problems of training with this spec, each with a fix; errors must stop it.

    base_config: the base model's config.json, None if not available yet. base: its folder, for exact layer names (from its
    weights' headers) and the system prompt's exact length (from its tokenizer).
    """
    folder = Path(spec.name)
    findings = [finding for rule in SPEC_RULES for finding in rule(spec, folder)]
    findings += [*_hardware(spec), *_embeddings(spec)]
    if base_config is not None:
        text = text_settings(base_config)
        if layout_findings := _layout(text, base is not None):
            return findings + layout_findings
        findings += _writes_no_text(base_config)
        findings += _quantized(spec, quantization(base_config, base))
        findings += _lengths(spec, text)
        findings += METHODS[spec.training.method].check_base(spec.training, text, lambda: linear_layers(base))
    return findings + _system_prompt(spec, base)


def _finding(rule: str, key: str, message: str, fix: str, severity: Any = "error") -> Finding:
    return Finding(f"training.{rule}", severity, f"task.yaml: {key}", message, fix)


def _hardware(spec: TaskSpec) -> list[Finding]:
    if spec.training.precision != "bfloat16" or has_nvidia() or cpu_has_bfloat16():
        return []
    message = "this processor emulates bfloat16, which is many times slower than float32"
    fix = "set training.precision: auto"
    return [_finding("precision", "training.precision", message, fix, "warning")]


def _embeddings(spec: TaskSpec) -> list[Finding]:
    """Check that embeddings are here: evaluation.similarity reads them last of all."""
    models = {"baseline.embeddings": spec.baseline.embeddings, "evaluation.similarity": spec.evaluation.similarity}
    findings = []
    for key, model in {**models, "baseline.encoder": spec.baseline.encoder}.items():
        if model and (model != "hashed" or key == "baseline.encoder"):
            try:
                encoder_files(model) if key == "baseline.encoder" else embedding_files(model)
            except (FileNotFoundError, ValueError) as error:
                message, _, fix = str(error).partition("; ")
                findings.append(_finding("embeddings", key, message, fix))
    return findings


def _layout(config: Mapping[str, object], complete: bool) -> list[Finding]:
    """Check that the model's family is supported. complete: `config` is the whole config.json, not just known parts."""
    unknown = [key for key in _SIZES if not isinstance(config.get(key), int)] if complete else []
    unknown += [key for key in _OTHER_SIZES if not isinstance(config.get(key), int | None)]
    if "n_embd" in config:
        message = "the base model stores transposed weights, as GPT-2 does, which are not supported"
    elif unknown:
        message = f"the base model's config.json gives no number as {', '.join(unknown)}: this family is not supported"
    else:
        return []
    return [_finding("layout", "base_model", message, "use a model of another family: Llama, Mistral, Qwen, Gemma")]


def _writes_no_text(config: Mapping[str, Any]) -> list[Finding]:
    """Check that the base model is no encoder or classifier, of which the baseline's prompts cannot be asked."""
    kinds = [name for name in config.get("architectures") or () if str(name).endswith(_NO_TEXT)]
    if not kinds:
        return []
    message = f"the base model is a {kinds[0]}, which writes no text, but every method starts from a model that can be prompted"
    return [
        _finding(
            "writes_no_text", "base_model", message, "use a causal language model, for training.method: classifier, too"
        )
    ]


def _quantized(spec: TaskSpec, kind: str | None) -> list[Finding]:
    if kind is None:
        return []
    message = f"the base model is already quantized ({kind}): {METHODS[spec.training.method].on_quantized}"
    return [_finding("quantized_base", "base_model", message, "set base_model to the unquantized model")]


def _lengths(spec: TaskSpec, config: Mapping[str, Any]) -> list[Finding]:
    t, method = spec.training, METHODS[spec.training.method]
    limit, virtual = config.get("max_position_embeddings"), sum(method.virtual_tokens(t))
    if not limit or t.max_tokens + virtual <= limit:
        return []
    room = max(limit - virtual, 0)
    virtual_text = f" and {virtual} virtual tokens" if virtual else ""
    demand = f"training.max_tokens = {t.max_tokens}{virtual_text}: examples over {room} tokens count as too long"
    message = f"the base model's context of {limit} tokens is too short for {demand}"
    fix = f"set training.max_tokens: {room}" + (f", or lower training.{method.section}.tokens" if virtual else "")
    severity = "warning" if room >= _LEAST_ROOM else "error"
    return [_finding("context_length", "training.max_tokens", message, fix, severity)]


def linear_layers(base: Path | None) -> set[str]:
    """Return the names of the linear layers of a block, from the headers of the weights. base: None for a bundled model."""
    return _BUNDLED_LAYERS if base is None else {layer.name.rpartition(".")[2] for layer in model_shape(base).linears}


def _system_prompt(spec: TaskSpec, base: Path | None) -> list[Finding]:
    """Check the system prompt's length: exactly if the tokenizer is available, else with one token per word as lower bound."""
    tokenizer = load_tokenizer_file(base) if base is not None else None

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids if tokenizer is not None else text.split())

    prompt, answer = count(spec.system_prompt), max(map(count, spec.labels), default=1)
    needed, limit = prompt + answer, spec.training.max_tokens
    if needed < limit:
        return []
    unit = "tokens" if tokenizer is not None else "words"
    answer_name = "the longest label" if spec.labels else "an answer"
    message = f"the system prompt ({prompt} {unit}) and {answer_name} ({answer}) fill training.max_tokens = {limit}: "
    message += "no example can fit"
    fix = f"set training.max_tokens: {2 * needed} or more, or shorten the system prompt"
    return [_finding("system_prompt", "training.max_tokens", message, fix)]
