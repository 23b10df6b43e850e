"""Writes Ollama's Modelfile for a model folder: system prompt, Go template and greedy settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import TemplateError

from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.chat_templates import written
from finetune_pipeline.models.facts import Serving
from finetune_pipeline.models.manifest import export_error

CONTEXT = 4096
"""Ollama's context length in tokens."""
_INCONSISTENT = "it renders the same turn differently in different conversations"
_SYSTEM, _FIRST, _ANSWER, _SECOND = "Zsystem0", "Zuser1", "Zanswer2", "Zuser3"
"""Placeholders for the turns when the chat template is split into its parts."""


def modelfile(folder: Path, serving: Serving, context: int) -> str:
    """Return the text of a Modelfile for the model folder it lies in, whose safetensors `ollama create` imports.

    context: length in tokens. Raises FindingsError like
    :func:`go_template`.
    """
    lines = ["FROM .", f"TEMPLATE {_quoted(go_template(folder, _leading_token(folder)))}"]
    if serving.system_prompt:
        lines.append(f"SYSTEM {_quoted(serving.system_prompt)}")
    settings = {"temperature": 0, "repeat_penalty": 1, "num_predict": serving.max_new_tokens, "num_ctx": context}
    lines += [f"PARAMETER {name} {value}" for name, value in settings.items()]
    lines += [f"PARAMETER stop {_quoted(token)}" for token in serving.stop_tokens]
    return "\n".join(lines) + "\n"


def _leading_token(folder: Path) -> str:
    """Return the text of the begin-of-sequence token that Ollama puts before every prompt, as the tokenizer does; or ""."""
    tokenizer = load_tokenizer(folder)
    without, with_specials = (tokenizer("x", add_special_tokens=specials)["input_ids"] for specials in (False, True))
    adds_bos = len(with_specials) > len(without) and with_specials[0] == tokenizer.bos_token_id
    return str(tokenizer.bos_token) if adds_bos else ""


def go_template(folder: Path, begin: str = "") -> str:
    """Convert a folder's chat template to Ollama's template language: an optional system turn, user and assistant turns.

    The pieces are the text that the template writes between the turns of three conversations. Raises FindingsError if the
    template does more than put pieces between the turns, or Go would interpret a piece.
    """
    alone, generation, between = _parts(folder)
    try:
        before_system, before_user, *following = _parts(folder, {"role": "system", "content": _SYSTEM})
    except TemplateError:  # the template refuses system turns, as Gemma 2's does
        before_system, before_user, following = "", "", [generation, between]
    if following != [generation, between]:
        raise _refused(_INCONSISTENT)
    before_system, alone = before_system.removeprefix(begin), alone.removeprefix(begin)
    if any("{{" in piece for piece in (before_system, before_user, generation, between, alone)):
        raise _refused("it contains double braces")
    return (
        "{{ range $i, $m := .Messages }}"
        f'{{{{ if eq $m.Role "system" }}}}{before_system}{{{{ $m.Content }}}}{before_user}'
        f'{{{{ else if eq $m.Role "user" }}}}{{{{ if eq $i 0 }}}}{alone}{{{{ else if gt $i 1 }}}}{between}{{{{ end }}}}'
        f"{{{{ $m.Content }}}}{generation}"
        "{{ else }}{{ $m.Content }}{{ end }}{{ end }}"
    )


def _parts(folder: Path, *lead: Mapping[str, str]) -> list[str]:
    """Return the pieces before each leading turn, before the first question, before an answer, and before the next question."""
    opening = [*lead, {"role": "user", "content": _FIRST}]
    continuation = [{"role": "assistant", "content": _ANSWER}, {"role": "user", "content": _SECOND}]
    *parts, between, end = _pieces(folder, [*opening, *continuation])
    if _pieces(folder, opening) != parts or parts[-1] != end:
        raise _refused(_INCONSISTENT)
    return [*parts, between]


def _pieces(folder: Path, messages: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the template's pieces before, between and after the turns' texts."""
    text, pieces = written(folder, messages), []
    if text is None:
        raise _refused("the model has no chat template")
    for turn in (message["content"] for message in messages):
        before, separator, text = text.partition(turn)
        if not separator or turn in text:
            raise _refused("it leaves out a turn, or repeats one")
        pieces.append(before)
    return [*pieces, text]


def _quoted(text: str) -> str:
    if '"""' in text:
        raise _refused("a Modelfile cannot contain three quotation marks in a row")
    return f'"""{text}"""'


def _refused(reason: str) -> FindingsError:
    return export_error("export.ollama", f"the chat template cannot be converted for Ollama: {reason}")
