"""Chat templates for base models that have none: by name or from a file, and whether a vocabulary can write them.

No token is ever added to a vocabulary: its embedding would be random, and adapters do not train embeddings. A template
whose marks are no tokens of the base is refused, and those that can be used are named.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container
from pathlib import Path

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
        raise FindingsError(
            [
                Finding(
                    "model.chat_template",
                    "error",
                    "task.yaml: chat_template",
                    f"{setting!r} is neither a known template nor a readable file ({error})",
                    f"write one of {', '.join(NAMED)}, or the path of a Jinja file in the task folder",
                )
            ]
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


def marks(template: str) -> list[str]:
    """What the template writes by itself that looks like a special token: ``<|im_start|>``, ``<end_of_turn>``, ``[INST]``."""
    return sorted({m.group() for m in _MARK.finditer(template)})


def missing_marks(template: str, vocabulary: Container[str]) -> list[str]:
    """Marks of the template that are no tokens of the vocabulary."""
    return [mark for mark in marks(template) if mark not in vocabulary]


def usable(vocabulary: Container[str]) -> list[str]:
    """Names of the templates whose marks are all in the vocabulary; ``none``, which has no marks, comes last."""
    return [name for name, text in NAMED.items() if not missing_marks(text, vocabulary)]
