"""Base class and registry of raw formats, and detection of a row's format.

A format is one module of this package with one class::

    from finetune_pipeline.data.formats.base import RawFormat, Turns, read_single_texts, register
    from finetune_pipeline.data.json_lines import JsonObject
    from finetune_pipeline.spec import TaskSpec

    @register
    class QuestionAnswer(RawFormat):
        name, order = "question_answer", 35
        documented = "`q`, `a`"
        row_keys = ("q",)
        needs = (("q",), ("a",))

        def read(self, row: JsonObject, spec: TaskSpec, turns: Turns) -> set[str]:
            return read_single_texts(row, "q", "a", spec, turns)
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Collection, Set
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

from finetune_pipeline.data.examples import Message, Tool
from finetune_pipeline.data.formats.tool_calls import read_tools, unpacked
from finetune_pipeline.data.json_lines import JsonObject
from finetune_pipeline.data.names import add_fields, declare
from finetune_pipeline.data.quoting import key_name, keys_shown, quoted, row_finding
from finetune_pipeline.findings import Finding, Severity
from finetune_pipeline.spec import TaskSpec

OPTIONAL = ("id", "group", "origin", "source", "tags", "time", "generator")
"""Keys that a row of any format may have."""
ANSWERS = ("completion", "response", "answer", "output")
"""Keys of the answer in single-turn rows."""
CHATS = ("messages", "conversations")
"""Keys whose values are lists of turns."""
_TOOLS = ("tools", "functions")
_OF_ANY_ROW = frozenset({*OPTIONAL, *_TOOLS, "tool_choice", "label"})
_SPREADSHEET_ERRORS = "#N/A #NULL! #DIV/0! #VALUE! #REF! #NAME? #NUM! #NV #WERT! #BEZUG! #ZAHL!".split()
"""What English and German spreadsheets show if a formula fails."""


@dataclass
class Turns:
    """The turns read from a row.

    Attributes:
        place: File and line of the row, for findings.
        shape: Name of the row's format; None if it matches none.
        whole: Every turn of the row is in `messages`, so their order can be checked.
        ignored: Keys that nothing reads.
        chat: The row has its own system turn, or states that it has none.
        tools: The row's tools, in OpenAI's form.
    """

    place: str
    shape: str | None
    messages: list[Message] = field(default_factory=list)
    whole: bool = False
    findings: list[Finding] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    chat: bool = False
    tools: list[Tool] | None = None

    def say(self, rule: str, message: str, fix: str, severity: Severity = "error") -> None:
        """Add a finding."""
        self.findings.append(row_finding(rule, self.place, message, fix, severity))

    def text_of(self, holder: JsonObject, key: str, name: str, note: bool = True, missing: str = "") -> str | None:
        """Return the stripped text under a key of a row or turn, or None and add a finding. name: the text's name in messages.
        note: add a note about outer whitespace. missing: the fix to suggest if the key is missing."""
        value = holder.get(key)
        if isinstance(value, str) and value[:1] == "#" and value in _SPREADSHEET_ERRORS:
            fix = "correct the cell's formula, or remove the row"
            self.say("empty_field", f"`{name}` is {value}: the spreadsheet could not compute it", fix)
            return None
        if isinstance(value, str) and (text := clean_text(value)):
            if note and len(text) != len(value) - value.count("\r\n"):
                message, fix = f"`{name}` begins or ends with whitespace", "nothing to do: it was removed"
                self.say("stray_whitespace", message, fix, "note")
            return text
        if key not in holder:
            keys = ", ".join(quoted(k) for k in list(holder)[:10]) or "none"
            self.say("missing_field", f"`{name}` is missing (keys found: {keys})", missing or f"add `{key}`")
        elif value is None or isinstance(value, str):
            content = "null" if value is None else "empty"
            self.say("empty_field", f"`{name}` is {content}", "fill it in or remove the row")
        else:
            fix = "join the parts into one text" if isinstance(value, list) else "write it as text, in double quotes"
            self.say("wrong_type", f"`{name}` must be text, found {quoted(value)}", fix)
        return None


class RawFormat(ABC):
    """A raw format.

    Attributes:
        name: Its name in `data.format`.
        order: Formats are tried in ascending order; the first that recognises a row reads it.
        documented: Keys and their variants, for the table in docs/reference.md.
        row_keys: Keys of which any one marks an object of a JSON document as a row, and the first line of a table as its header;
            leave out keys that other data have, too. A misspelt key is compared with the first, and with `fields`.
        needs: Rows in this format have a key of each of these groups.
        fields: Names in `data.fields` that together map to this format; empty if it cannot be mapped.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    documented: ClassVar[str] = ""
    row_keys: ClassVar[tuple[str, ...]]
    needs: ClassVar[tuple[tuple[str, ...], ...]]
    fields: ClassVar[tuple[str, ...]] = ()

    def recognises(self, keys: Set[str]) -> bool:
        """Whether a row with these keys is in this format."""
        return not any([keys.isdisjoint(group) for group in self.needs])

    @abstractmethod
    def read(self, row: JsonObject, spec: TaskSpec, turns: Turns) -> set[str]:
        """Fill `turns` with the row's turns or with findings. Returns the keys read."""


FORMATS: dict[str, RawFormat] = {}
"""The formats by name, in the order in which they are tried."""
Class = TypeVar("Class", bound=type[RawFormat])


def register(kind: Class) -> Class:
    """Class decorator: adds a format to the registry."""
    ordered = sorted([*(f for f in FORMATS.values() if f.name != kind.name), kind()], key=lambda f: f.order)
    FORMATS.clear()
    FORMATS.update({f.name: f for f in ordered})
    _format_of_keys.cache_clear()
    return kind


def first_key(row: Collection[str], keys: tuple[str, ...]) -> str | None:
    return next((k for k in keys if k in row), None)


def clean_text(text: str) -> str:
    """Strip a text and give it LF line ends."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip()


def format_of(row: JsonObject) -> str | None:
    """Return the name of the format that recognises a row, or None."""
    return _format_of_keys(frozenset(row))


@lru_cache  # the rows of a file have the same keys
def _format_of_keys(keys: frozenset[str]) -> str | None:
    return next((name for name, form in FORMATS.items() if form.recognises(keys)), None)


def read_turns(row: JsonObject, spec: TaskSpec, place: str) -> Turns:
    """Read the chat turns of a raw row; its texts are stripped."""
    shape = format_of(row)
    turns = Turns(place, shape)
    if shape is None or spec.data.format not in ("auto", shape):
        message, fix = _unknown_format(row, shape, spec)
        turns.say("unknown_shape", message, fix)
        return turns
    read = FORMATS[shape].read(row, spec, turns)
    if row.get("tool_choice"):
        turns.say("unsupported_key", "`tool_choice` changes what the row means and is not supported", "remove it")
    for key in _TOOLS:
        if key in row:
            tools = read_tools(row[key], turns.say)
            turns.tools = turns.tools or tools
    if turns.ignored or not row.keys() <= _OF_ANY_ROW | read:
        turns.ignored = sorted({*turns.ignored, *map(key_name, row.keys() - _OF_ANY_ROW - read)})
    return turns


def read_single_texts(
    row: JsonObject, prompt_key: str, answer_key: str, spec: TaskSpec, turns: Turns, subject: str | None = None
) -> set[str]:
    """Read a row with one user text and one answer, such as `chosen` of a preference row. Prepends the spec's system prompt
    unless the row has one. subject: text to append to the user's. Returns the keys it read."""
    line = "" if prompt_key in row and answer_key in row else add_fields(row, spec)
    missing = f"add to task.yaml: {line}" if line else ""
    prompt = turns.text_of(row, prompt_key, prompt_key, missing=missing)
    if prompt is not None and subject is not None:
        prompt = f"{prompt}\n\n{subject}"
    answers = {answer_key: chosen_text(row[answer_key])} if answer_key == "chosen" else row
    answer = None
    if isinstance(answers.get(answer_key), list | dict) and spec.output.kind == "json":
        name = answer_key if answer_key in ("label", "completion", "output") else "completion"
        line = declare({name: f"to_string({answer_key})"}, expressions=(name,))
        message = f"`{answer_key}` must be text, found {quoted(answers[answer_key])}"
        turns.say("wrong_type", message, f"write the JSON as a string, or add {line} to task.yaml to have it converted")
    else:
        answer = turns.text_of(answers, answer_key, answer_key, missing=missing)
    system = spec.system_prompt
    if row.get("system") not in (None, ""):
        turns.chat = True
        system = turns.text_of(row, "system", "system", note=False) or system
    turns.messages = [{"role": "system", "content": system}]
    turns.messages += [{"role": "user", "content": prompt}] if prompt is not None else []
    turns.messages += [{"role": "assistant", "content": answer}] if answer is not None else []
    turns.whole = prompt is not None and answer is not None
    return {prompt_key, answer_key, "system"}


def read_history(row: JsonObject, turns: Turns) -> set[str]:
    """Prepend the earlier turns of a row, which LLaMA-Factory stores as pairs. Returns the keys it read."""
    pairs = unpacked(row.get("history"))
    if not isinstance(pairs, list):
        return set()
    earlier: list[Message] = []
    for i, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2:
            message = f"`history[{i}]` must be a pair, found {quoted(pair)}"
            turns.say("wrong_type", message, 'write ["request", "answer"]')
            continue
        for side, role in enumerate(("user", "assistant")):
            text = turns.text_of({"history": pair[side]}, "history", f"history[{i}][{side}]")
            earlier += [{"role": role, "content": text}] if text is not None else []
    turns.messages[1:1] = earlier
    turns.whole = turns.whole and len(earlier) == 2 * len(pairs)
    return {"history"}


def chosen_text(value: Any) -> Any:
    """Return the better answer of a preference row: text, a turn, or a list of turns that ends with it."""
    last = value[-1] if isinstance(value, list) and value else value
    return last.get("content", last.get("value")) if isinstance(last, dict) else last


def _unknown_format(row: JsonObject, shape: str | None, spec: TaskSpec) -> tuple[str, str]:
    """Return (message, fix) about a row in no known format, or in one that the spec does not allow."""
    found_keys = keys_shown(row)
    if shape is not None:
        allowed = spec.data.format
        message = f"the row is in the format `{shape}`, the spec allows `{allowed}` only (keys: {found_keys})"
        return message, f"write `{FORMATS[allowed].row_keys[0]}`, or set data.format: auto"
    keys = sorted(str(k) for k in row)
    format_by_key = {key: name for name, form in FORMATS.items() for key in (form.row_keys[0], *form.fields)}
    matches = {k: difflib.get_close_matches(k.casefold(), list(format_by_key), 1, 0.8) for k in keys}
    renames = [(k, n[0]) for k, n in matches.items() if n and isinstance(row.get(k), list) == (n[0] in CHATS)]
    if renames:
        formats = {format_by_key[new] for _, new in renames}
        nearest = next(name for name in FORMATS if name in formats)
        fix = f"nearest format: `{nearest}`; rename " + ", ".join(f"{quoted(k)} to `{new}`" for k, new in renames)
    elif line := add_fields(row, spec):
        fix = f"add to task.yaml: {line}"
    elif keys and all(k.startswith("c") and k[1:].isdigit() for k in keys):
        fix = "no header row names the columns: map them in data.fields (for example text: c1 and label: c2)"
    elif len(keys) == 1 and keys[0] in FORMATS["prompt_completion"].row_keys:
        fix = f"{quoted(keys[0])} was found, but the prompt or the answer is missing: add `prompt` or `completion`"
    else:
        fix = "map them in data.fields (such as text: and label:), or write `messages` (a chat); `finetune try FILE` drafts them"
    return f"the row matches no known format; keys found: {found_keys}", fix
