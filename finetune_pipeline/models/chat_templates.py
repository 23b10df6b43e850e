"""Chat templates: by name or from a file, what they need of a vocabulary, and running them without the model library.

No token is ever added to a vocabulary: its embedding would be random, and adapters do not train embeddings. A template
whose marks are no tokens of the base is refused, and those that can be used are named.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_pipeline.engine.store import read_json
from finetune_pipeline.findings import Finding, FindingsError

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% set lead = namespace(text='') %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set lead.text = message['content'] | trim + '\\n\\n' %}{% else %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' + lead.text "
    "+ message['content'] | trim + '<end_of_turn>\\n' }}{% set lead.text = '' %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
_LLAMA3 = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] "
    "+ '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
_NONE = (
    "{{ bos_token if bos_token is defined and bos_token and bos_token != eos_token else '' }}"
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ 'Answer: ' + message['content'] | trim + eos_token + '\\n\\n' }}"
    "{% elif message['role'] in ('system', 'user') %}{{ message['content'] | trim + '\\n\\n' }}"
    "{% else %}{{ raise_exception('the plain template knows no turns of the role ' + message['role']) }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"
)
NAMED = {"chatml": _CHATML, "gemma": _GEMMA, "llama3": _LLAMA3, "none": _NONE}
"""``none`` writes plain text: the turns, a blank line after each, what the assistant says behind ``Answer:``."""

_MARK = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?[a-z][a-z_]{1,30}>|\[/?[A-Z_]{2,20}\]")


def read_chat_template(setting: str | None, folder: Path) -> str | None:
    """The template text for a spec's `chat_template`: a name of :data:`NAMED`, or a file relative to the task folder.

    Raises FindingsError if it is neither. None stays None: the model's own.
    """
    if setting is None or setting in NAMED:
        return NAMED[setting] if setting else None
    path = folder / setting
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{setting!r} is neither a known template nor a readable file ({error})"
        fix = f"write one of {', '.join(NAMED)}, or the path of a Jinja file in the task folder"
        raise FindingsError(
            [Finding("model.chat_template", "error", "task.yaml: chat_template", message, fix)]
        ) from error
    return text


def template_identity(setting: str | None, folder: Path) -> dict[str, str]:
    """What a base model's version depends on beside its own content: the digest of the template's text, where one is set.

    A name and a file with the same text are the same. Raises as :func:`read_chat_template`.
    """
    text = read_chat_template(setting, folder)
    return {} if text is None else {"chat_template": hashlib.sha256(text.encode()).hexdigest()}


def told_origin(setting: str | None, folder: Path) -> str:
    """Where a task's chat template is from, for people."""
    if setting is None:
        return "the model's own"
    return f"{setting} (built in)" if setting in NAMED else str(folder / setting)


def own_template(folder: Path) -> str | None:
    """The chat template a model folder brings, or None. Of several in tokenizer_config.json, the one called ``default``."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    path = folder / "tokenizer_config.json"
    template = read_json(path).get("chat_template") if path.is_file() else None
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template or None


def marks(template: str) -> list[str]:
    """What the template writes by itself that looks like a special token: ``<|im_start|>``, ``<end_of_turn>``, ``[INST]``."""
    return sorted({m.group() for m in _MARK.finditer(template)})


def missing_marks(template: str, vocabulary: Container[str]) -> list[str]:
    """Marks of the template that are no tokens of the vocabulary."""
    return [mark for mark in marks(template) if mark not in vocabulary]


def usable(vocabulary: Container[str]) -> list[str]:
    """Names of the templates whose marks are all in the vocabulary; ``none``, which has no marks, comes last."""
    return [name for name, text in NAMED.items() if not missing_marks(text, vocabulary)]


class _Generation(Extension):
    """``{% generation %}…{% endgeneration %}`` marks what the assistant says; the text is the same without the marks."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja wants it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _raise(message: str) -> None:
    raise TemplateError(f"the chat template refuses these messages: {message}")


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def compile_template(text: str) -> Template:
    """The template, ready to be rendered. Raises jinja2.TemplateSyntaxError with the line where it is no Jinja."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(text)


USER_TEXT = "{text}"
"""Stands where the user's text comes."""


def prompt_text(folder: Path, system_prompt: str) -> str | None:
    """The prompt of a model folder's chat template for one user's turn; None where there is no template.

    Raises jinja2.TemplateError where the template refuses a system turn and a user's.
    """
    template, config = own_template(folder), folder / "tokenizer_config.json"
    if template is None:
        return None
    settings = read_json(config) if config.is_file() else {}
    special = {k: v["content"] if isinstance(v, dict) else v for k, v in settings.items() if k.endswith("_token") and v}
    turns = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages = [*turns, {"role": "user", "content": USER_TEXT}]
    return str(compile_template(template).render(messages=messages, add_generation_prompt=True, **special))
