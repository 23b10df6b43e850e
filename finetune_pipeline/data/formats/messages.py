"""OpenAI's chat format: a list of turns, with tools and weights. Also reads ShareGPT's ``conversations``.

Content is text or a list of typed parts. Reasoning (a part, or the key ``reasoning_content``) is put before the answer,
inside ``<think>…</think>``, with a note. Images, audio and files are refused.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from finetune_pipeline.data.examples import ROLES, Message, ToolCall
from finetune_pipeline.data.formats.base import RawFormat, Turns, chosen_text, clean_text, register
from finetune_pipeline.data.formats.tool_calls import read_calls, unpacked
from finetune_pipeline.data.json_lines import JsonObject
from finetune_pipeline.data.quoting import key_name, quoted
from finetune_pipeline.spec import TaskSpec

_SAME_ROLE = {"developer": "system", "function": "tool"}
SHAREGPT_ROLES = {
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bard", "bing", "ai", "bot", "model"), "assistant"),
    **dict.fromkeys(("observation", "tool_response", "function_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "function_call"),
    **{role: role for role in (*ROLES, *_SAME_ROLE)},
}
TEXT_PARTS = ("text", "input_text", "output_text")
REASONING_PARTS = ("reasoning", "thinking")
_REFUSED = ("audio", "refusal")
_KNOWN = {"role", "content", "from", "value", "tool_calls", "function_call", "tool_call_id", "reasoning_content"}
_KNOWN |= {"weight", "loss_weight", *_REFUSED}


@register
class Messages(RawFormat):
    """``{"messages": [{"role": "user", "content": "…"}, …]}``"""

    name, order = "messages", 10
    documented = (
        "`messages`: OpenAI chat, with `tools`, `tool_calls`, `weight`, and content as text or as a list of text parts"
    )
    row_keys = ("messages", "tools", "chosen", "rejected")
    needs = (("messages",),)
    fields = ("messages",)

    def read(self, row: JsonObject, spec: TaskSpec, turns: Turns) -> set[str]:
        return read_messages(row, "messages", spec, turns, loose=False)


def read_messages(row: JsonObject, key: str, spec: TaskSpec, turns: Turns, loose: bool) -> set[str]:
    """Read the list of turns under `key`, and the row's `system` if no turn is one. A chat without an answer gets a preference
    row's better answer. loose: accept ShareGPT's role names too. Returns the keys it read."""
    turns.chat = True
    value = unpacked(row[key])
    if not isinstance(value, list) or not value:
        rule = "empty_field" if value is None or value == [] else "wrong_type"
        message = f"`{key}` must be a list of turns, found {'an empty list' if value == [] else quoted(value)}"
        turns.say(rule, message, 'write [{"role": "user", "content": "…"}, …]')
        return {key}
    reader = _ChatReader(turns, spec.data.roles, loose)
    messages = [reader.read(unpacked(turn), f"{key}[{i}]") for i, turn in enumerate(value)]
    read = {key}
    if row.get("system") and not any(m["role"] == "system" for m in messages if m is not None):
        read.add("system")
        messages.insert(0, reader.read({"role": "system", "content": row["system"]}, "system"))
    turns.messages += [m for m in messages if m is not None]
    turns.whole = None not in messages
    turns.ignored += [f"{key}.{k}" for k in reader.ignored]
    if not turns.whole or turns.messages[-1]["role"] not in ("user", "tool") or "chosen" not in row:
        return read
    text = turns.text_of({"chosen": chosen_text(row["chosen"])}, "chosen", "chosen")
    turns.whole = text is not None
    if text is not None:
        turns.messages.append({"role": "assistant", "content": text})
    return {*read, "chosen"}


class _ChatReader:
    """Reads the turns of one row. `ignored`: keys of turns that nothing reads."""

    def __init__(self, turns: Turns, roles: Mapping[str, str], loose: bool) -> None:
        self._turns, self._say, self._findings = turns, turns.say, turns.findings
        self._roles, self._loose = roles, loose
        self.ignored: set[str] = set()

    def _text(self, holder: JsonObject, key: str, name: str, note: bool = True) -> str | None:
        return self._turns.text_of(holder, key, f"{name}.{key}", note)

    def read(self, turn: Any, name: str) -> Message | None:
        """Return one turn in canonical form, or None and add findings with the reason."""
        if not isinstance(turn, dict):
            message = f"`{name}` must be an object, found {quoted(turn)}"
            self._say("wrong_type", message, 'write {"role": "user", "content": "…"}')
            return None
        role, text = turn.get("role"), turn.get("content")
        if len(turn) == 2 and isinstance(text, str) and role in ROLES and role not in self._roles:  # nearly every turn
            if not text or text[0] == "#" or clean_text(text) != text:
                text = self._text(turn, "content", name, note=role != "system")
            return None if text is None else {"role": role, "content": text}
        before = len(self._findings)
        foreign = "role" not in turn and "from" in turn
        role = self._role(turn, "from" if foreign else "role", name, self._loose or foreign)
        content_key = "value" if "content" not in turn and "value" in turn else "content"
        for key in _REFUSED:
            if turn.get(key) is not None:
                message = f"`{name}.{key}` changes what the turn means and is not supported"
                self._say("unsupported_key", message, "remove the key if it is not needed, otherwise remove the row")
        if not turn.keys() <= _KNOWN:
            self.ignored.update(key_name(k) for k in turn if k not in _KNOWN and not (k == "name" and role == "tool"))
        weight = self._weight(turn, name)
        if role is None:
            if not isinstance(turn.get(content_key), list):
                self._text(turn, content_key, name)
            return None
        message_ = self._read_known(turn, role, content_key, name, before)
        if weight is not None:
            if message_["role"] == "assistant" and weight == 0:
                message_["weight"] = 0
            elif message_["role"] != "assistant" and weight == 1:
                self.ignored.add("weight")
        return message_ if all(f.severity != "error" for f in self._findings[before:]) else None

    def _read_known(self, turn: JsonObject, role: str, content_key: str, name: str, before: int) -> Message:
        """Return the canonical form of a turn whose role is known."""
        message: Message = {"role": role, "content": ""}
        if role == "function_call":  # ShareGPT: the call is where the text would be
            message["role"] = "assistant"
            calls = read_calls(turn.get(content_key), f"{name}.{content_key}", self._say)
            if not calls and len(self._findings) == before:
                self._say("empty_field", f"`{name}.{content_key}` is null", "fill it in")
        else:
            message["content"], calls = self._content(turn, role, content_key, name)
        call_values = [(k, turn[k]) for k in ("tool_calls", "function_call") if turn.get(k) not in (None, [])]
        if role == "assistant":
            for key, value in call_values:
                calls += read_calls(value, f"{name}.{key}", self._say)
        elif any(value for _, value in call_values) or (calls and role != "function_call"):
            self._say("bad_tool_call", f"`{name}`: only the assistant can call tools, not {role!r}", "remove it")
        if calls:
            message["tool_calls"] = calls
        elif not message["content"] and len(self._findings) == before:
            self._text(turn if isinstance(turn.get(content_key), str | None) else {content_key: ""}, content_key, name)
        if role == "tool":
            if isinstance(turn.get("tool_call_id"), str) and turn["tool_call_id"]:
                message["tool_call_id"] = turn["tool_call_id"]
            if isinstance(turn.get("name"), str) and turn["name"]:
                message["name"] = turn["name"]
        return message

    def _role(self, turn: JsonObject, key: str, name: str, loose: bool) -> str | None:
        role = self._text(turn, key, name, note=False)
        if role is None:
            return None
        if role in self._roles:
            return self._roles[role]
        canonical = SHAREGPT_ROLES.get(role.casefold()) if loose else role if role in ROLES else None
        canonical = _SAME_ROLE.get(canonical or role, canonical)
        if canonical is None:
            meant = SHAREGPT_ROLES.get(role.casefold())
            near = [meant] if meant in ROLES else difflib.get_close_matches(role.casefold(), ROLES, 1, 0.6)
            fix = f"use one of {', '.join(ROLES)}, or data.roles"
            fix = f"write {near[0]!r}, or name it in data.roles" if near else fix
            self._say("unknown_role", f"`{name}.{key}` is {quoted(role)}", fix)
        return canonical

    def _weight(self, turn: JsonObject, name: str) -> int | None:
        """Return the weight 0 or 1, or None if missing or invalid."""
        for key in ("weight", "loss_weight"):
            weight = turn.get(key)
            if weight is None:
                continue
            if isinstance(weight, int | float) and not isinstance(weight, bool) and weight in (0, 1):
                return int(weight)
            self._say("bad_weight", f"`{name}.{key}` is {quoted(weight)}", "write 0 or 1")
        return None

    def _content(self, turn: JsonObject, role: str, content_key: str, name: str) -> tuple[str, list[ToolCall]]:
        """Return (text, calls among its parts) of a turn."""
        content, thought = turn.get(content_key), turn.get("reasoning_content")
        calls: list[ToolCall] = []
        if isinstance(content, list):
            content, reasoning = self._parts(content, f"{name}.{content_key}", calls)
            thought = thought or reasoning
        elif isinstance(content, str) and content.strip():
            note = role != "system"  # the system turn is compared with the spec's prompt instead
            content = self._text(turn, content_key, name, note) or ""
        else:
            has_call = turn.get("tool_calls") or turn.get("function_call")
            if not has_call or (content is not None and not isinstance(content, str)):
                self._text(turn, content_key, name)
            content = ""
        if isinstance(thought, str) and thought.strip() and role == "assistant":
            message = f"`{name}` holds reasoning; it is kept before the answer, inside <think>…</think>"
            fix = "remove it at the source if the model should not write its reasoning"
            self._say("reasoning_kept", message, fix, "note")
            content = f"<think>\n{clean_text(thought)}\n</think>\n\n{content}".rstrip()
        return content, calls

    def _parts(self, parts: list[Any], name: str, calls: list[ToolCall]) -> tuple[str, str]:
        """Return (text, reasoning) of a list of typed parts, and add calls among them to `calls`."""
        texts: list[str] = []
        thoughts: list[str] = []
        for i, part in enumerate(parts):
            where = f"{name}[{i}]"
            if isinstance(part, str):
                texts.append(part)
                continue
            kind = part.get("type", "text" if "text" in part else None) if isinstance(part, dict) else None
            if not isinstance(kind, str):
                self._say("wrong_type", f"`{where}` has no type", 'write {"type": "text", "text": "…"}')
                continue
            value = part.get("text", part.get("value", part.get(kind, part.get("content"))))
            if kind in ("tool_call", "function_call"):
                calls += read_calls(value if value is not None else part, where, self._say)
            elif kind not in (*TEXT_PARTS, *REASONING_PARTS):
                message = f"`{where}` has the type {quoted(kind)}: only text is supported"
                self._say("unsupported_part", message, "remove the row, or describe in text what the part shows")
            elif not isinstance(value, str):
                self._say("wrong_type", f"`{where}` must hold text, found {quoted(value)}", "write it as text")
            else:
                (texts if kind in TEXT_PARTS else thoughts).append(value)
        return clean_text("".join(texts)), "\n".join(thoughts)
