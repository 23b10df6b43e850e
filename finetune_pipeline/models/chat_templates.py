"""Chat templates: finds them by name, in a file or in a base model's files, and renders them without the model library.

No token is ever added to a vocabulary: its embedding would be random, and adapters do not train embeddings. If the base
lacks a control token of the template, the template is refused, and usable ones are named.
"""

import hashlib
import json
import re
from collections.abc import Container, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.model_files import read_text, read_typed
from finetune_pipeline.models.template_trial import trial_problem

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
"""``none`` writes plain text: the turns, each followed by a blank line, the assistant's after ``Answer:``."""

_NO_THINKING = "{%- set enable_thinking = false %}"
_DATE = date(2024, 7, 26)
"""The date in every prompt: the one that Llama 3 writes where there is no clock."""
USER_TEXT = "{text}"
"""Placeholder for the user's text."""
_ANSWER = "an answer"

_MARK = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?[a-z][a-z_]{1,30}>|\[/?[A-Z_]{2,20}\]")


def read_chat_template(setting: str | None, folder: Path) -> str | None:
    """Return the template text for a spec's `chat_template`: a name in :data:`NAMED`, or a file relative to the task folder.
    A date in it is fixed; None is the model's own template. Raises FindingsError if it is neither a name nor a file."""
    if setting is None or setting in NAMED:
        return NAMED[setting] if setting else None
    try:
        return with_fixed_date((folder / setting).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        message = f"{setting!r} is neither a known template nor a readable file ({error})"
        fix = f"set one of {', '.join(NAMED)}, or the path of a Jinja file in the task folder"
        finding = Finding("model.chat_template", "error", "task.yaml: chat_template", message, fix)
        raise FindingsError([finding]) from error


def template_identity(setting: str | None, folder: Path) -> dict[str, str]:
    """Return the chat template's part of a base model's version: the digest of its text, if one is set."""
    text = read_chat_template(setting, folder)
    return {} if text is None else {"chat_template": hashlib.sha256(text.encode()).hexdigest()}


def template_origin(setting: str | None, folder: Path) -> str:
    """Describe where a task's chat template comes from."""
    if setting is None:
        return "the model's own"
    return f"{setting} (built in)" if setting in NAMED else str(folder / setting)


class _NamedTemplate(msgspec.Struct):
    name: str
    template: str


class _Token(msgspec.Struct):
    content: str


class _TokenizerConfig(msgspec.Struct):
    chat_template: str | list[_NamedTemplate] | dict[str, str] | None = None
    bos_token: str | _Token | None = None
    eos_token: str | _Token | None = None
    unk_token: str | _Token | None = None
    pad_token: str | _Token | None = None


class _GenerationConfig(msgspec.Struct):
    eos_token_id: int | list[int] | None = None


def template_file(folder: Path) -> Path:
    """Return the file of a model folder that holds its chat template, if it has one."""
    file = folder / "chat_template.jinja"
    return file if file.is_file() else folder / "tokenizer_config.json"


def own_template(folder: Path) -> str | None:
    """Return the chat template in a model folder's files, or None. If tokenizer_config.json has several, ``default`` is used."""
    file = template_file(folder)
    if file.suffix == ".jinja":
        return read_text(file)
    template = read_typed(folder / "tokenizer_config.json", _TokenizerConfig).chat_template
    if isinstance(template, list):
        template = {entry.name: entry.template for entry in template}
    return (template.get("default") if isinstance(template, dict) else template) or None


def fixed_template(folder: Path) -> str | None:
    """Return the chat template with which a base model is used here, or None.

    An answer is all that the model writes, and a prompt is the same on every day. So three things are fixed: the date;
    thinking, which is off; and text that the template writes before every answer, which becomes part of the generation prompt.
    """
    template = own_template(folder)
    if template is None:
        return None
    template = with_fixed_date(template)
    if "enable_thinking" in template and not template.startswith(_NO_THINKING):
        template = _NO_THINKING + template
    turns = [{"role": "user", "content": USER_TEXT}, {"role": "assistant", "content": _ANSWER}]
    try:
        render = partial(compile_template(template, str(template_file(folder))).render, **special_tokens(folder))
        text, prompt = render(messages=turns), render(messages=turns[:1], add_generation_prompt=True)
    except TemplateError:
        return template  # training and preflight report it
    lead, answer, _ = text.removeprefix(prompt).partition(_ANSWER)
    if answer and text.startswith(prompt) and lead.strip():  # blanks belong to an answer's first token
        template = f"{template.removesuffix(chr(10))}{{% if add_generation_prompt %}}{{{{ {lead!r} }}}}{{% endif %}}"
    return template


def with_fixed_date(template: str) -> str:
    """Write :data:`_DATE` into a template in the place of today's: a resumed training and a server need the same prompt."""
    template = re.sub(r"strftime_now is (not )?defined", lambda m: "false" if m[1] else "true", template)
    call = r"""strftime_now\((?:"([^"]*)"|'([^']*)')\)"""
    return re.sub(call, lambda m: repr(_DATE.strftime(m[1] or m[2] or "")), template)


def special_tokens(folder: Path) -> dict[str, str]:
    """Return the special tokens of a model folder by their names in templates: bos_token, eos_token, … As in transformers,
    special_tokens_map.json replaces those in tokenizer_config.json, unless that has an added_tokens_decoder."""
    settings: dict[str, object] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        read_typed(folder / name, _TokenizerConfig)
        if "added_tokens_decoder" not in settings:
            settings |= read_typed(folder / name, dict[str, Any])
    tokens = {k: v.get("content") if isinstance(v, dict) else v for k, v in settings.items() if k.endswith("_token")}
    return {k: v for k, v in tokens.items() if v and isinstance(v, str)}  # add_bos_token, for example, is a flag


def generation_ends(folder: Path) -> list[int]:
    """Return the end-of-answer tokens that generation_config.json, or without it config.json, names: one, several or none."""
    files = (folder / "generation_config.json", folder / "config.json")
    ends = read_typed(next(filter(Path.is_file, files), files[0]), _GenerationConfig).eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def marks(template: str) -> list[str]:
    """Return literals of the template that look like special tokens: ``<|im_start|>``, ``<end_of_turn>``, ``[INST]``."""
    return sorted({m.group() for m in _MARK.finditer(template)})


def missing_marks(template: str, vocabulary: Container[str]) -> list[str]:
    return [mark for mark in marks(template) if mark not in vocabulary]


def usable_templates(vocabulary: Container[str]) -> list[str]:
    """Return the names of templates whose control tokens are all in the vocabulary; ``none``, which has none, comes last."""
    return [name for name, text in NAMED.items() if not missing_marks(text, vocabulary)]


class _Generation(Extension):
    """``{% generation %}…{% endgeneration %}`` marks the assistant's text; the rendered text does not change."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja wants it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _raise(message: str) -> None:
    raise TemplateError(f"the chat template refuses these messages: {message}")


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


class _Template(Template):
    """A template whose errors are all TemplateErrors."""

    def render(self, *args: Any, **variables: Any) -> str:
        try:
            return super().render(*args, **variables)
        except TemplateError:
            raise
        except Exception as error:
            raise TemplateError(f"the chat template fails: {type(error).__name__}: {error}") from error


def compile_template(text: str, place: str = "the chat template") -> Template:
    """Compile a template for rendering, after a trial in a child process.

    Raises jinja2.TemplateSyntaxError with the line of invalid Jinja, and FindingsError, which names the place, if rendering it
    takes too much time or memory.
    """
    template = compile_unchecked(text)
    if text not in NAMED.values() and (problem := trial_problem(text)):
        fix = "correct the template, or set chat_template in task.yaml to a built-in one"
        raise FindingsError(
            [Finding("model.chat_template", "error", place, f"the template is refused: {problem}", fix)]
        )
    return template


def compile_unchecked(text: str) -> Template:
    """Compile a template without the trial."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _DATE.strftime
    return environment.from_string(text, template_class=_Template)


def written(folder: Path, messages: Sequence[Mapping[str, str]]) -> str | None:
    """Render a conversation with a model folder's chat template; return None without a template.
    Raises jinja2.TemplateError if the template refuses these turns."""
    template = own_template(folder)
    if template is None:
        return None
    tokens = special_tokens(folder)
    compiled = compile_template(template, str(template_file(folder)))
    return str(compiled.render(messages=messages, add_generation_prompt=True, **tokens))


def prompt_text(folder: Path, system_prompt: str | None) -> str | None:
    """Render the prompt for one user turn with :func:`written`."""
    turns = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return written(folder, [*turns, {"role": "user", "content": USER_TEXT}])


def no_template(name: str, choices: Sequence[str]) -> Finding:
    """Return the finding for a base model without a chat template; choices: usable template names, the best first."""
    message = "the tokenizer has no chat template: this is a base model, trained to continue text, not to answer"
    template = f"{choices[0]} (its vocabulary supports: {', '.join(choices)}), and expect to need more examples"
    fix = f"start from the model's instruct version; or set chat_template: {template}"
    return Finding("model.no_chat_template", "error", f"model {name}", message, fix)


def no_tokenizer(name: str) -> Finding:
    """Return the finding for a model folder without a tokenizer.json, which counting tokens needs."""
    message = "the folder has no tokenizer.json"
    fix = "fetch the model again, all its files; or write it with AutoTokenizer.from_pretrained(…).save_pretrained(…)"
    return Finding("model.no_tokenizer", "error", f"model {name}", message, fix)


def missing_tokens(name: str, missing: Sequence[str], choices: Sequence[str]) -> Finding:
    message = f"{name} lacks the tokens {', '.join(missing)} of the template; added tokens would stay untrained"
    fix = f"set chat_template to one of: {', '.join(choices)}; or use the model's instruct version"
    return Finding("model.template_tokens", "error", "task.yaml: chat_template", message, fix)


def changed_template(folder: Path, name: str) -> list[Finding]:
    """Return a note if the model's own template is used with changes."""
    if fixed_template(folder) == own_template(folder):
        return []
    message = (
        f"the chat template of {name} is used with a fixed date ({_DATE:%d %b %Y}), without thinking, and with the text it writes "
        "before every answer as part of the prompt"
    )
    fix = "serve the exported template; or copy the model's own into the task folder and name it in chat_template"
    return [Finding("model.template_changed", "note", f"model {name}", message, fix)]


def template_findings(folder: Path, template: str | None, name: str, vocabulary: Container[str]) -> list[Finding]:
    """Return errors and warnings about using the model folder with `template` (None: its own)."""
    model_template = own_template(folder)
    if template is None:
        return changed_template(folder, name) if model_template else [no_template(name, usable_templates(vocabulary))]
    known = set(marks(model_template or ""))  # tokens or not, the model was trained with them
    if missing := [mark for mark in missing_marks(template, vocabulary) if mark not in known]:
        return [missing_tokens(name, missing, usable_templates(vocabulary))]
    if model_template:
        message = f"chat_template in task.yaml replaces the chat template of {name}"
        fix = "remove chat_template, unless you know that the model was trained with the template you set"
    else:
        message = f"{name} is a base model without a chat template: it was not trained on such turns"
        fix = "start from the instruct version of this model, if it exists; it needs fewer examples"
    return [Finding("model.template_from_task", "warning", f"model {name}", message, fix)]
