"""Raw formats: which one a row is in, and its chat turns, or all the reasons why there are none."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from finetune_pipeline.data.chat_turns import clean_text, read_chat, text_of
from finetune_pipeline.data.examples import Message
from finetune_pipeline.data.quoting import key_name, keys_shown, quoted
from finetune_pipeline.data.tool_calls import read_tools, unpacked
from finetune_pipeline.findings import Finding, Severity
from finetune_pipeline.spec import TaskSpec

__all__ = ["FORMATS", "OPTIONAL", "Turns", "quoted", "read_turns", "shape_of"]

PROMPTS = ("prompt", "question", "query", "input")
ANSWERS = ("completion", "response", "answer", "output")
CHATS = ("conversations", "conversation")
INPUTS = ("input", "context")
FORMATS: dict[str, str] = {
    "messages": "`messages`",
    "text_label": "`text` and `label`",
    "prompt_completion": "`prompt` and `completion`",
    "instruction": "`instruction`, `input` and `output`",
    "sharegpt": "`conversations`",
}
"""The formats, and the keys each asks for, as said to people."""
OPTIONAL = ("id", "group", "origin", "source", "tags", "time", "generator")
NO_INPUT = frozenset({"noinput", "no input", "n/a", "na", "none", "<noinput>", "<no input>", "[noinput]", "nan"})
"""What people write where an instruction has no input, in lower case."""
_TOOLS = ("tools", "functions")
_RENAMES = ("messages", "text", "label", "prompt", "completion", "instruction", "output", "conversations")


@dataclass
class Turns:
    """What a row says: its shape (None if unknown), its turns (only sound ones), what is wrong, keys nobody reads.

    `whole` is True when every turn of the row is in `messages`, so that their order can be judged; `chat` when the row
    brings a list of turns, so that the system turn is its own; `tools` in OpenAI's form; `subject`: the text an
    instruction is about.
    """

    shape: str | None
    messages: list[Message] = field(default_factory=list)
    whole: bool = False
    findings: list[Finding] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    chat: bool = False
    tools: list[dict[str, Any]] | None = None
    subject: str | None = None


def _finding(rule: str, place: str, message: str, fix: str, severity: Severity = "error") -> Finding:
    return Finding(f"data.{rule}", severity, place, message, fix)


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((k for k in keys if k in row), None)


def shape_of(row: dict[str, Any]) -> str | None:
    """The format a row is in: the first of the formats whose marks it bears, or None."""
    if "messages" in row:
        return "messages"
    if _first(row, CHATS):
        return "sharegpt"
    if "instruction" in row:
        return "instruction"
    prompt, answer = _first(row, PROMPTS), _first(row, (*ANSWERS, "chosen"))
    if prompt and answer and not ("text" in row and "label" in row):
        return "prompt_completion"
    return "text_label" if "text" in row or "label" in row else None


def read_turns(row: dict[str, Any], spec: TaskSpec, place: str) -> Turns:
    """The chat turns of a raw row in one of the accepted formats; texts have their outer blanks removed."""
    shape = shape_of(row)
    if shape is None or spec.data.format not in ("auto", shape):
        return Turns(shape, findings=[_unknown_shape(row, shape, spec, place)])
    turns = Turns(shape)
    if shape == "messages":
        read = _read_messages(row, "messages", spec, place, turns)
    elif shape == "sharegpt":
        read = _read_messages(row, _first(row, CHATS) or "", spec, place, turns)
    else:
        read = _read_flat(row, shape, spec, place, turns)
    if row.get("tool_choice"):
        turns.findings.append(
            _finding(
                "unsupported_key", place, "`tool_choice` changes what the row means and is not supported", "remove it"
            )
        )
    for key in _TOOLS:
        if key in row:
            tools, problems = read_tools(row[key], place)
            turns.tools = turns.tools or tools
            turns.findings += problems
    known = {*OPTIONAL, *_TOOLS, "tool_choice", "label", *read}
    turns.ignored = sorted({*turns.ignored, *(key_name(k) for k in row if k not in known)})
    return turns


def _read_messages(row: dict[str, Any], key: str, spec: TaskSpec, place: str, turns: Turns) -> set[str]:
    """Read a list of turns; a preference row's better answer ends a chat that has none. Returns the keys read."""
    read = {key}
    turns.chat = True
    read_chat(unpacked(row[key]), key, place, turns, spec.data.roles, loose=key != "messages")
    if turns.whole and turns.messages[-1]["role"] in ("user", "tool") and "chosen" in row:
        read.add("chosen")
        answer = _chosen(row["chosen"])
        text = text_of({"chosen": answer}, "chosen", "chosen", place, turns.findings)
        turns.whole = text is not None
        if text is not None:
            turns.messages.append({"role": "assistant", "content": text})
    if key != "messages" and row.get("system") and not any(m["role"] == "system" for m in turns.messages):
        read.add("system")
        text = text_of(row, "system", "system", place, turns.findings, note=False)
        turns.messages[:0] = [] if text is None else [{"role": "system", "content": text}]
        turns.whole = turns.whole and text is not None
    return read


def _chosen(value: Any) -> Any:
    """The text of a preference row's better answer: text, a turn, or a list of turns that ends with it."""
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, dict):
        return value.get("content", value.get("value"))
    return value


def _read_flat(row: dict[str, Any], shape: str, spec: TaskSpec, place: str, turns: Turns) -> set[str]:
    """Read a row of single texts. Returns the keys read."""
    found = turns.findings
    subject = None
    if shape == "text_label":
        said, answered = "text", "label"
    elif shape == "instruction":
        said, answered = "instruction", _first(row, ("output", *ANSWERS, "chosen")) or "output"
        subject = _first(row, INPUTS)
    else:
        said, answered = _first(row, PROMPTS) or "prompt", _first(row, (*ANSWERS, "chosen")) or "completion"
        if said == answered:
            answered = "completion"
    prompt = text_of(row, said, said, place, found)
    if prompt is not None and subject is not None:
        turns.subject = _subject(row, subject, place, found)
        prompt = f"{prompt}\n\n{turns.subject}" if turns.subject else prompt
    answers = {answered: _chosen(row[answered])} if answered == "chosen" else row
    answer = text_of(answers, answered, answered, place, found)
    read = {said, answered, *([subject] if subject else [])}
    turns.messages = [{"role": "system", "content": spec.system_prompt}]
    if row.get("system") is not None and row["system"] != "":
        read.add("system")
        turns.chat = True
        system = text_of(row, "system", "system", place, found, note=False)
        turns.messages = [{"role": "system", "content": system or spec.system_prompt}]
    elif "system" in row:
        read.add("system")
    turns.messages += [{"role": "user", "content": prompt}] if prompt is not None else []
    turns.messages += [{"role": "assistant", "content": answer}] if answer is not None else []
    turns.whole = prompt is not None and answer is not None
    return read


def _subject(row: dict[str, Any], key: str, place: str, found: list[Finding]) -> str | None:
    """What the instruction is about, None when there is nothing. A word for "nothing" counts as nothing, and is told."""
    value = row[key]
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        return text_of(row, key, key, place, found)
    text = clean_text(value)
    if text.casefold() not in NO_INPUT:
        return text_of(row, key, key, place, found)
    found.append(
        _finding(
            "no_input_marker",
            place,
            f"`{key}` is {quoted(text)}; it was read as empty",
            "leave it empty",
            "warning",
        )
    )
    return None


def _unknown_shape(row: dict[str, Any], shape: str | None, spec: TaskSpec, place: str) -> Finding:
    shown = keys_shown(row)
    if shape is not None:
        wanted = spec.data.format
        return _finding(
            "unknown_shape",
            place,
            f"the row is in the format `{shape}`, the spec allows `{wanted}` only (keys: {shown})",
            f"write {FORMATS[wanted]}, or set data.format: auto",
        )
    keys = sorted(str(k) for k in row)
    near = {k: difflib.get_close_matches(k.casefold(), _RENAMES, 1, 0.7) for k in keys}
    renames = [(k, n[0]) for k, n in near.items() if n]
    fix = "say in data.fields where things are (for example text: and label:), or write `messages` (a chat)"
    if renames:
        targets = {n for _, n in renames}
        nearest = next(name for name, needs in FORMATS.items() if any(f"`{t}`" in needs for t in targets))
        told = ", ".join(f"{quoted(k)} to `{n}`" for k, n in renames)
        fix = f"nearest format: `{nearest}`; rename {told}"
    elif prompt := _first(row, PROMPTS):
        fix = f"nearest format: `prompt_completion`; {quoted(prompt)} is there, the answer is missing: add `completion`"
    elif answer := _first(row, (*ANSWERS, "chosen")):
        fix = f"nearest format: `prompt_completion`; {quoted(answer)} is there, the question is missing: add `prompt`"
    elif keys and all(k.startswith("c") and k[1:].isdigit() for k in keys):
        fix = "no row names the columns: say in data.fields which is which (for example text: c1 and label: c2)"
    return _finding("unknown_shape", place, f"no known format; keys here: {shown}", fix)
