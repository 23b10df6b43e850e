"""Converts tools and tool calls to OpenAI's form.

A tool is ``{"type": "function", "function": {"name", "description", "parameters"}}``; a call is ``{"id", "type":
"function", "function": {"name", "arguments"}}`` with the arguments as JSON text, and without `id` if the row has none.
"""

import ast
import json
import re
from collections.abc import Callable
from typing import Any

import msgspec

from finetune_pipeline.data.examples import CalledFunction, Tool, ToolCall
from finetune_pipeline.data.quoting import quoted

Say = Callable[[str, str, str], None]
"""Reports a problem: rule, message, fix."""

_CALL_FIX = 'write {"type": "function", "function": {"name": "…", "arguments": "{…}"}}'
_LONGEST = 1 << 20
_TEXT_IN_PYTHON = re.compile(r"'(?:[^'\\]|\\.)*+(?:'|\Z)|\"(?:[^\"\\]|\\.)*+(?:\"|\Z)", re.DOTALL)
_PLAIN_IN_PYTHON = re.compile(r"\s*[\[{](?:[\s\[\]{},:]|_(?!\s*_)|True|False|None|-?\d+(?:\.\d*)?(?:e[+-]?\d+)?)*+")
"""Lists and dictionaries of plain values whose texts are replaced by `_`: no operators, and no two adjacent texts, which
Python would join."""
_TOOL_FIX = 'write [{"type": "function", "function": {"name": "…", "parameters": {…}}}]'


def unpacked(value: Any) -> Any:
    """Decode a list or an object given as text: JSON, or Python's `repr`, which pandas writes into tables. Returns anything
    else unchanged."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    decoded = _from_json(value)
    return _from_python(value) if decoded is value else decoded


def as_json_text(value: Any) -> str:
    """Return a value as JSON text, with non-ASCII letters unescaped. A text is returned unchanged, unless it is Python's `repr`
    of a list or a dictionary."""
    if isinstance(value, str):
        value = value if _from_json(value) is not value else _from_python(value)
        if isinstance(value, str):
            return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _from_json(text: str) -> Any:
    try:
        return msgspec.json.decode(text.encode("utf-8", "surrogatepass"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return text


def _from_python(text: str) -> Any:
    """Parse Python's `repr` of a list or dictionary. Returns the text itself if it is not one, or if JSON cannot represent it."""
    plain = len(text) <= _LONGEST and _PLAIN_IN_PYTHON.fullmatch(_TEXT_IN_PYTHON.sub("_", text))
    try:
        return msgspec.json.decode(json.dumps(ast.literal_eval(text.strip()))) if plain else text
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # msgspec's DecodeError is a ValueError
        return text


def read_tools(value: Any, say: Say) -> list[Tool] | None:
    """Read a row's `tools` (a list or JSON text of one, entries may be flat) in OpenAI's form; None if there are none."""
    value = unpacked(value)
    if value is None or value == "":
        return None
    if not isinstance(value, list):
        say("bad_tool", f"`tools` must be a list of functions, found {quoted(value)}", _TOOL_FIX)
        return None
    tools: list[Tool] = []
    for i, entry in enumerate(map(unpacked, value)):
        function = entry.get("function", entry) if isinstance(entry, dict) else None
        if isinstance(entry, dict) and entry.get("type", "function") != "function":
            say("bad_tool", f"`tools[{i}].type` is {quoted(entry['type'])}, not 'function'", _TOOL_FIX)
        elif not isinstance(function, dict) or not _is_name(function.get("name")):
            say("bad_tool", f"`tools[{i}]` has no name: {quoted(entry)}", _TOOL_FIX)
        else:
            definition = function if "function" in entry else {k: v for k, v in function.items() if k != "type"}
            tools.append({"type": "function", "function": definition})
    return tools or None


def read_calls(value: Any, name: str, say: Say) -> list[ToolCall]:
    """Read a turn's `tool_calls`, or JSON text with one call or several, in OpenAI's form."""
    value = unpacked(value)
    if value is None:
        return []
    entries = [value] if isinstance(value, dict) else value
    if not isinstance(entries, list) or not entries:
        content = "an empty list" if value == [] else quoted(value)
        say("bad_tool_call", f"`{name}` must be a list of calls, found {content}", _CALL_FIX)
        return []
    calls: list[ToolCall] = []
    for i, entry in enumerate(entries):
        call, why = _read_call(unpacked(entry))
        if call:
            calls.append(call)
        else:
            say("bad_tool_call", f"`{name}[{i}]` {why}", _CALL_FIX)
    return calls


def _read_call(entry: Any) -> tuple[ToolCall | None, str]:
    """Read one call. Returns (call, "") or (None, what is wrong with it)."""
    if not isinstance(entry, dict):
        return None, f"must be an object, found {quoted(entry)}"
    if entry.get("type", "function") != "function":
        return None, f"has the type {quoted(entry['type'])}; only functions are supported"
    function = entry.get("function", entry)
    if not isinstance(function, dict) or not _is_name(function.get("name")):
        return None, "names no function"
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        plain = _from_json(arguments) if arguments.strip() else {}
        if plain is arguments:
            return None, f"has arguments that are not JSON: {quoted(arguments)}"
        arguments = arguments.strip() or "{}"
    else:
        plain = {} if arguments is None else arguments
        arguments = msgspec.json.encode(plain).decode()
    if not isinstance(plain, dict):
        return None, f"has arguments that are not an object: {quoted(arguments)}"
    called: CalledFunction = {"name": function["name"], "arguments": arguments}
    if isinstance(entry.get("id"), str) and entry["id"]:
        return {"id": entry["id"], "type": "function", "function": called}, ""
    return {"type": "function", "function": called}, ""


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
