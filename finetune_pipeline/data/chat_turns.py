"""The turns of a chat, from the forms they come in: OpenAI's ``messages`` and ShareGPT's ``conversations``.

Content may be text, or a list of typed parts. Text parts are joined as they stand. A part of reasoning (or the key
``reasoning_content``) is kept in front of the answer, inside ``<think>…</think>``, with a note; pictures, sound and
files are refused: this pipeline trains on text.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune_pipeline.data.quoting import key_name, quoted
from finetune_pipeline.data.tool_calls import read_calls
from finetune_pipeline.findings import Finding, Severity

if TYPE_CHECKING:
    from finetune_pipeline.data.formats import Turns

ROLES = ("system", "user", "assistant", "tool")
_SAME_ROLE = {"developer": "system", "function": "tool"}
_SHAREGPT = {
    **{"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bard": "assistant", "bing": "assistant"},
    **{"bot": "assistant", "model": "assistant", "observation": "tool", "tool_response": "tool"},
    **{"function_response": "tool", "function_call": "function_call", "tool_call": "function_call"},
    **{role: role for role in (*ROLES, *_SAME_ROLE)},
}
_MEANT = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "ai": "assistant"}
_TEXT_PARTS = ("text", "input_text", "output_text")
_REASONING_PARTS = ("reasoning", "thinking")
_REFUSED = ("audio", "refusal")
_KNOWN = {"role", "content", "from", "value", "tool_calls", "function_call", "tool_call_id", "reasoning_content"}
_KNOWN |= {"weight", "loss_weight", *_REFUSED}


def _finding(rule: str, place: str, message: str, fix: str, severity: Severity = "error") -> Finding:
    return Finding(f"data.{rule}", severity, place, message, fix)


def clean_text(text: str) -> str:
    """Line ends as LF, outer blanks off."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip()


def stray(name: str, place: str) -> Finding:
    """The note about outer blanks that were taken off."""
    return _finding(
        "stray_whitespace", place, f"`{name}` begins or ends with blanks", "nothing to do; they were taken off", "note"
    )


def text_of(
    holder: dict[str, Any], key: str, name: str, place: str, findings: list[Finding], note: bool = True
) -> str | None:
    """The text under a key without outer blanks (with a note, unless `note` is off), or None after noting why not."""
    if key not in holder:
        keys = ", ".join(quoted(k) for k in list(holder)[:10]) or "none"
        findings.append(_finding("missing_field", place, f"`{name}` is missing (keys here: {keys})", f"add `{key}`"))
        return None
    value = holder[key]
    if isinstance(value, str):
        text = clean_text(value)
        if text:
            if note and len(text) != len(value) - value.count("\r\n"):
                findings.append(stray(name, place))
            return text
    if value is None or isinstance(value, str):
        what = "null" if value is None else "empty"
        findings.append(_finding("empty_field", place, f"`{name}` is {what}", "fill it in, or remove the row"))
        return None
    fix = "join the parts into one text" if isinstance(value, list) else "write it as text, in double quotes"
    findings.append(_finding("wrong_type", place, f"`{name}` must be text, found {quoted(value)}", fix))
    return None


def read_chat(value: Any, key: str, place: str, turns: Turns, roles: Mapping[str, str], loose: bool) -> None:
    """Fill `turns` from a list of turns.

    `key`: what the list is called in messages; `roles`: the spec's other names of roles; `loose`: ShareGPT's names of
    roles are known too.
    """
    findings = turns.findings
    if not isinstance(value, list):
        rule = "empty_field" if value is None else "wrong_type"
        what = f"`{key}` must be a list of turns, found {quoted(value)}"
        findings.append(_finding(rule, place, what, 'write [{"role": "user", "content": "…"}, …]'))
        return
    if not value:
        findings.append(_finding("empty_field", place, f"`{key}` is an empty list", "fill it in, or remove the row"))
        return
    whole = True
    ignored: set[str] = set()
    for i, turn in enumerate(value):
        name = f"{key}[{i}]"
        if not isinstance(turn, dict):
            findings.append(
                _finding(
                    "wrong_type",
                    place,
                    f"`{name}` must be an object, found {quoted(turn)}",
                    'write {"role": "user", "content": "…"}',
                )
            )
            whole = False
            continue
        message = _read_turn(turn, name, place, turns, roles, loose, ignored)
        whole = whole and message is not None
        if message is not None:
            turns.messages.append(message)
    turns.ignored.extend(f"{key}.{k}" for k in ignored)
    turns.whole = whole


def _read_turn(
    turn: dict[str, Any],
    name: str,
    place: str,
    turns: Turns,
    roles: Mapping[str, str],
    loose: bool,
    ignored: set[str],
) -> dict[str, Any] | None:
    """One turn in canonical form, or None after noting why there is none."""
    findings = turns.findings
    before = len(findings)
    foreign = "role" not in turn and "from" in turn
    role = _role(turn, "from" if foreign else "role", name, place, findings, roles, loose or foreign)
    said = "value" if "content" not in turn and "value" in turn else "content"
    for key in _REFUSED:
        if turn.get(key) is not None:
            findings.append(
                _finding(
                    "unsupported_key",
                    place,
                    f"`{name}.{key}` changes what the turn means and is not supported",
                    "remove the key if it may go, else the row",
                )
            )
    ignored.update(key_name(k) for k in turn if k not in _KNOWN and not (k == "name" and role == "tool"))
    weight = _weight(turn, name, place, findings)
    if role is None:
        if not isinstance(turn.get(said), list):
            text_of(turn, said, f"{name}.{said}", place, findings)
        return None
    message: dict[str, Any] = {"role": role, "content": ""}
    calls: list[dict[str, Any]] = []
    if role == "function_call":  # ShareGPT: the call stands where the text would
        message["role"] = "assistant"
        calls, problems = read_calls(turn.get(said), f"{name}.{said}", place)
        findings += problems
        if not calls and not problems:
            findings.append(_finding("empty_field", place, f"`{name}.{said}` is null", "fill it in"))
    else:
        _read_content(turn, said, name, place, findings, message, calls)
    if role == "assistant":
        given = [(k, turn[k]) for k in ("tool_calls", "function_call") if turn.get(k) not in (None, [])]
        for key, value in given:
            more, problems = read_calls(value, f"{name}.{key}", place)
            calls += more
            findings += problems
    elif turn.get("tool_calls") or turn.get("function_call") or (calls and role != "function_call"):
        findings.append(
            _finding("bad_tool_call", place, f"`{name}`: only the assistant can call tools, not {role!r}", "remove it")
        )
    if calls:
        message["tool_calls"] = calls
    elif not message["content"] and len(findings) == before:
        text_of(turn if isinstance(turn.get(said), str | None) else {said: ""}, said, f"{name}.{said}", place, findings)
    if role == "tool":
        message.update({k: turn[k] for k in ("tool_call_id", "name") if isinstance(turn.get(k), str) and turn[k]})
    if weight is not None:
        if message["role"] == "assistant" and weight == 0:
            message["weight"] = 0
        elif message["role"] != "assistant" and weight == 1:
            ignored.add("weight")
    return message if all(f.severity != "error" for f in findings[before:]) else None


def _role(
    turn: dict[str, Any],
    key: str,
    name: str,
    place: str,
    findings: list[Finding],
    roles: Mapping[str, str],
    loose: bool,
) -> str | None:
    role = text_of(turn, key, f"{name}.{key}", place, findings, note=False)
    if role is None:
        return None
    if role in roles:
        return roles[role]
    known = _SHAREGPT.get(role.casefold()) if loose else role if role in ROLES else None
    known = _SAME_ROLE.get(known or role, known)
    if known is None:
        near = [_MEANT[role.casefold()]] if role.casefold() in _MEANT else []
        near = near or difflib.get_close_matches(role.casefold(), ROLES, 1, 0.6)
        fix = (
            f"write {near[0]!r}, or name it in data.roles" if near else f"use one of {', '.join(ROLES)}, or data.roles"
        )
        findings.append(_finding("unknown_role", place, f"`{name}.{key}` is {quoted(role)}", fix))
    return known


def _weight(turn: dict[str, Any], name: str, place: str, findings: list[Finding]) -> int | None:
    """0 or 1, or None when nothing is said (or what is said is wrong)."""
    for key in ("weight", "loss_weight"):
        weight = turn.get(key)
        if weight is None:
            continue
        if isinstance(weight, int | float) and not isinstance(weight, bool) and weight in (0, 1):
            return int(weight)
        findings.append(_finding("bad_weight", place, f"`{name}.{key}` is {quoted(weight)}", "write 0 or 1"))
    return None


def _read_content(
    turn: dict[str, Any],
    said: str,
    name: str,
    place: str,
    findings: list[Finding],
    message: dict[str, Any],
    calls: list[dict[str, Any]],
) -> None:
    """Put the text of a turn into `message`, and calls that stand among its parts into `calls`."""
    content = turn.get(said)
    thought = turn.get("reasoning_content")
    if isinstance(content, list):
        content, parts_thought = _read_parts(content, f"{name}.{said}", place, findings, calls)
        thought = thought or parts_thought
    elif not isinstance(content, str) or not content.strip():
        has_call = turn.get("tool_calls") or turn.get("function_call")
        if not has_call or (content is not None and not isinstance(content, str)):
            text_of(turn, said, f"{name}.{said}", place, findings)
        content = ""
    else:
        note = message["role"] != "system"  # that one is compared with the spec's prompt
        content = text_of(turn, said, f"{name}.{said}", place, findings, note) or ""
    if isinstance(thought, str) and thought.strip() and message["role"] == "assistant":
        findings.append(
            _finding(
                "reasoning_kept",
                place,
                f"`{name}` holds reasoning; it stands before the answer, inside <think>…</think>",
                "remove it at the source if the model is not to reason aloud",
                "note",
            )
        )
        content = f"<think>\n{clean_text(thought)}\n</think>\n\n{content}".rstrip()
    message["content"] = content


def _read_parts(
    parts: list[Any], name: str, place: str, findings: list[Finding], calls: list[dict[str, Any]]
) -> tuple[str, str]:
    """(text, reasoning) of a list of typed parts."""
    texts: list[str] = []
    thoughts: list[str] = []
    for i, part in enumerate(parts):
        where = f"{name}[{i}]"
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            findings.append(
                _finding("wrong_type", place, f"`{where}` is no typed part", 'write {"type": "text", "text": "…"}')
            )
            continue
        own = part.get("text", part.get("value", part.get(kind, part.get("content"))))
        if kind in ("tool_call", "function_call"):
            more, problems = read_calls(own if own is not None else part, where, place)
            calls += more
            findings += problems
        elif kind not in (*_TEXT_PARTS, *_REASONING_PARTS):
            findings.append(
                _finding(
                    "unsupported_part",
                    place,
                    f"`{where}` is of the type {quoted(kind)}: only text can be trained on here",
                    "remove the row, or say in text what the part shows",
                )
            )
        elif not isinstance(own, str):
            findings.append(
                _finding("wrong_type", place, f"`{where}` must hold text, found {quoted(own)}", "write it as text")
            )
        else:
            (texts if kind in _TEXT_PARTS else thoughts).append(own)
    return clean_text("".join(texts)), "\n".join(thoughts)
