"""What speaks against training a task, told before anything is loaded: its spec, its base model, its chat template.

Asked by ``finetune check`` and ``finetune run``, by the graph when a run begins, and once more by ``training_plan``, which
has the base model's folder at hand. No torch, no model library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.base_template import endless, missing_tokens, no_template, own_template, template_findings
from finetune_pipeline.models.chat_templates import NAMED, missing_marks, read_chat_template
from finetune_pipeline.models.identity import (
    BUNDLED,
    bundled_files,
    model_folder,
    model_kind,
    model_record,
    weight_files,
)
from finetune_pipeline.models.template_engine import compile_template
from finetune_pipeline.planning.tokens import TokenCounter
from finetune_pipeline.spec import rules
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.training.refusals import load_tokenizer_file, read_base_config, refusals

_SAID = "an answer"


def preflight(spec: TaskSpec, folder: Path, base: Path | None = None) -> list[Finding]:
    """All findings, errors and warnings, each with what to change.

    folder: the task's. base: the artifact of the ``base_model`` step; where that is not made yet, a local base is looked at
    where it lies, and of a bundled one what is known of it. What a hub model is can only be told once it has been brought.
    """
    if base is not None:
        there = model_folder(base)
        warned = [Finding(**told) for told in model_record(base).get("warnings", [])]
        return [*refusals(spec, read_base_config(there), there), *warned]
    try:
        config, where = _base(spec)
    except FindingsError as error:
        return [*refusals(spec, None), *error.findings]
    if unknown := rules.check_chat_template(spec, folder):
        return [*refusals(spec, config, where), *unknown]
    try:
        template = read_chat_template(spec.chat_template, folder)
        if template is not None:
            compile_template(template)
    except FindingsError as error:
        return [*refusals(spec, config, where), *error.findings]
    except TemplateSyntaxError as error:
        problem = Finding(
            "model.chat_template",
            "error",
            f"{spec.chat_template}:{error.lineno}",
            f"the chat template is no Jinja: {error.message}",
            "correct the template",
        )
        return [*refusals(spec, config, where), problem]
    return [*refusals(spec, config, where), *_template(spec, template, where)]


def _base(spec: TaskSpec) -> tuple[dict[str, Any] | None, Path | None]:
    """(config.json or what is known of it, the model's folder where there is one already).

    Raises FindingsError where the base model cannot be had.
    """
    kind = model_kind(spec.base_model, spec.base_revision)
    if kind == "bundled":
        bundled_files(spec.base_model)
        return dict(BUNDLED[spec.base_model].config), None
    if kind == "hub":
        return None, None
    local = Path(spec.base_model).expanduser()
    if not (local / "config.json").is_file():
        raise FindingsError(
            [
                Finding(
                    "model.folder",
                    "error",
                    "task.yaml: base_model",
                    f"{spec.base_model!r} holds no config.json: it is no model in the transformers format",
                    "name a folder that `save_pretrained` has written",
                )
            ]
        )
    weight_files(local)
    return read_base_config(local), local


def _template(spec: TaskSpec, template: str | None, base: Path | None) -> list[Finding]:
    if base is None:
        bundled = BUNDLED.get(spec.base_model)
        if bundled is None or not bundled.templates:
            return []
        name = spec.base_model
        if template is None:
            return [no_template(name, bundled.templates)]
        known = {mark for choice in bundled.templates for mark in missing_marks(NAMED[choice], ())}
        missing = missing_marks(template, known)
        return [missing_tokens(name, missing, bundled.templates)] if missing else []
    tokenizer = load_tokenizer_file(base)
    if tokenizer is None:
        return []
    found = template_findings(base, template, spec.base_model, tokenizer)
    text = template or own_template(base)
    if text and all(f.severity != "error" for f in found):
        found += _ends(TokenCounter(base, text, tokenizer))
    return found


def _ends(counter: TokenCounter) -> list[Finding]:
    """Whether a special token follows what the assistant says."""
    turns = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": _SAID}]
    try:
        behind = counter.render(turns).rpartition(_SAID)[2]
    except (TemplateError, TypeError, KeyError, ValueError):
        return []  # it wants turns of other forms; the rows will show whether it can write them
    special = {token for token, told in counter.tokenizer.get_added_tokens_decoder().items() if told.special}
    ids = counter.tokenizer.encode(behind, add_special_tokens=False).ids
    return [] if special & set(ids) else [endless(behind)]
