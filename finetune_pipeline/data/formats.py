"""Raw formats: which one a row is in, and its chat turns, or all the reasons why there are none."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from finetune_pipeline.data.examples import Message
from finetune_pipeline.data.scrubbing import scrub_text
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec import TaskSpec

FORMATS: dict[str, tuple[str, ...]] = {"messages": ("messages",), "text_label": ("text", "label")}
ROLES = ("system", "user", "assistant")
_OPTIONAL = {"id", "label", "group", "origin", "source", "tags"}
_UNSUPPORTED_ROW = ("tools", "functions", "function_call", "tool_choice")
_UNSUPPORTED_MESSAGE = ("tool_calls", "function_call", "tool_call_id", "weight", "audio", "refusal")
_FOREIGN: dict[str, frozenset[str]] = {
    "prompt/completion": frozenset({"prompt", "completion", "response"}),
    "instruction/input/output": frozenset({"instruction", "input", "output"}),
    "ShareGPT": frozenset({"conversations", "conversation"}),
    "question/answer": frozenset({"question", "answer"}),
}


@dataclass
class Turns:
    """What a row says: its shape (None if unknown), its turns (only sound ones), what is wrong, keys nobody reads.

    `whole` is True when every turn of the row is in `messages`, so that their order can be judged.
    """

    shape: str | None
    messages: list[Message] = field(default_factory=list)
    whole: bool = False
    findings: list[Finding] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def quoted(value: Any, limit: int = 60) -> str:
    """A value of a stranger as it may be shown in a message: scrubbed, cut, with odd characters escaped."""
    if isinstance(value, str):
        value = scrub_text(value[:1000])
        return repr(value if len(value) <= limit else value[: limit - 1] + "…")
    return {dict: "an object", list: "a list", bool: "true/false", type(None): "null"}.get(
        type(value), repr(value)[:limit]
    )


def detect(row: dict[str, Any]) -> str | None:
    """``messages``, ``text_label``, or None."""
    if "messages" in row:
        return "messages"
    return "text_label" if "text" in row or "label" in row else None


def read_turns(row: dict[str, Any], spec: TaskSpec, place: str) -> Turns:
    """The chat turns of a raw row in one of the accepted formats; texts have their outer blanks removed."""
    shape = detect(row)
    if shape is None or spec.data.format not in ("auto", shape):
        return Turns(shape, findings=[_unknown_shape(row, shape, spec, place)])
    turns = Turns(shape)
    for key in _UNSUPPORTED_ROW:
        if row.get(key):
            turns.findings.append(
                _finding(
                    "unsupported_key",
                    place,
                    f"`{key}` changes what the row means and is not supported",
                    "leave out rows with tools",
                )
            )
    known = {*_OPTIONAL, *FORMATS[shape], *_UNSUPPORTED_ROW}
    turns.ignored = sorted(quoted(k)[1:-1] for k in row if k not in known)
    if shape == "text_label":
        _read_text_label(row, spec, place, turns)
    else:
        _read_messages(row["messages"], place, turns)
    return turns


def _finding(rule: str, place: str, message: str, fix: str) -> Finding:
    return Finding(f"data.{rule}", "error", place, message, fix)


def _clean(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _text_of(holder: dict[str, Any], key: str, name: str, place: str, findings: list[Finding]) -> str | None:
    """The text under a key, or None after noting why there is none."""
    if key not in holder:
        keys = ", ".join(quoted(k) for k in list(holder)[:10]) or "none"
        findings.append(_finding("missing_field", place, f"`{name}` is missing (keys here: {keys})", f"add `{key}`"))
        return None
    value = holder[key]
    if isinstance(value, str) and value.strip():
        return _clean(value)
    if value is None or isinstance(value, str):
        what = "null" if value is None else "empty"
        findings.append(_finding("empty_field", place, f"`{name}` is {what}", "fill it in, or remove the row"))
        return None
    fix = "join the parts into one text" if isinstance(value, list) else "write it as text, in double quotes"
    findings.append(_finding("wrong_type", place, f"`{name}` must be text, found {quoted(value)}", fix))
    return None


def _read_text_label(row: dict[str, Any], spec: TaskSpec, place: str, turns: Turns) -> None:
    text = _text_of(row, "text", "text", place, turns.findings)
    label = _text_of(row, "label", "label", place, turns.findings)
    turns.messages = [{"role": "system", "content": spec.system_prompt}]
    if text is not None:
        turns.messages.append({"role": "user", "content": text})
    if label is not None:
        turns.messages.append({"role": "assistant", "content": label})
    turns.whole = text is not None and label is not None


def _read_messages(messages: Any, place: str, turns: Turns) -> None:
    findings = turns.findings
    if not isinstance(messages, list):
        rule = "empty_field" if messages is None else "wrong_type"
        findings.append(
            _finding(
                rule,
                place,
                f"`messages` must be a list of turns, found {quoted(messages)}",
                'write [{"role": "user", "content": "…"}, …]',
            )
        )
        return
    if not messages:
        findings.append(_finding("empty_field", place, "`messages` is an empty list", "fill it in, or remove the row"))
        return
    whole = True
    for i, message in enumerate(messages):
        name = f"messages[{i}]"
        if not isinstance(message, dict):
            findings.append(
                _finding(
                    "wrong_type",
                    place,
                    f"`{name}` must be an object, found {quoted(message)}",
                    'write {"role": "user", "content": "…"}',
                )
            )
            whole = False
            continue
        role = _text_of(message, "role", f"{name}.role", place, findings)
        if role is not None and role not in ROLES:
            near = difflib.get_close_matches(role.casefold(), ROLES, 1, 0.6)
            near = {
                "developer": ["system"],
                "human": ["user"],
                "gpt": ["assistant"],
                "model": ["assistant"],
                "bot": ["assistant"],
                "ai": ["assistant"],
            }.get(role.casefold(), near)
            fix = f"write {near[0]!r}" if near else f"use one of {', '.join(ROLES)}"
            findings.append(_finding("unknown_role", place, f"`{name}.role` is {quoted(role)}", fix))
            role = None
        content = _text_of(message, "content", f"{name}.content", place, findings)
        for key in _UNSUPPORTED_MESSAGE:
            if message.get(key) is not None and not (key == "weight" and message[key] == 1):
                findings.append(
                    _finding(
                        "unsupported_key",
                        place,
                        f"`{name}.{key}` changes what the turn means and is not supported",
                        "remove the key if it may go, else the row",
                    )
                )
        turns.ignored.extend(
            f"messages.{quoted(k)[1:-1]}" for k in message if k not in ("role", "content", *_UNSUPPORTED_MESSAGE)
        )
        if role is None or content is None:
            whole = False
        else:
            turns.messages.append({"role": role, "content": content})
    turns.ignored = sorted(set(turns.ignored))
    turns.whole = whole


def _unknown_shape(row: dict[str, Any], shape: str | None, spec: TaskSpec, place: str) -> Finding:
    keys = sorted(str(k) for k in row)
    shown = ", ".join(quoted(k) for k in keys[:12]) or "none"
    if shape is not None:
        wanted = spec.data.format
        needs = " and ".join(f"`{k}`" for k in FORMATS[wanted])
        return _finding(
            "unknown_shape",
            place,
            f"the row is in the format `{shape}`, the spec allows `{wanted}` only (keys: {shown})",
            f"write {needs}, or set data.format: auto",
        )
    folded = {k.casefold() for k in keys}
    foreign = next((name for name, marks in _FOREIGN.items() if folded & marks), None)
    near = {k: difflib.get_close_matches(k.casefold(), ["messages", "text", "label"], 1, 0.7) for k in keys}
    renames = [f"{quoted(k)} to `{n[0]}`" for k, n in near.items() if n]
    if renames:
        nearest = "messages" if any(n == ["messages"] for n in near.values()) else "text_label"
        fix = f"nearest format: `{nearest}`; rename {', '.join(renames)}"
    elif foreign:
        nearest = "messages" if foreign == "ShareGPT" else "text_label"
        what = "`messages`" if nearest == "messages" else "`text` and `label`"
        fix = f"this looks like {foreign}; nearest format: `{nearest}`; write {what} instead"
    else:
        fix = "write `messages` (a chat), or `text` and `label`"
    return _finding("unknown_shape", place, f"no known format; keys here: {shown}", fix)
