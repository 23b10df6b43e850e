"""What a row must satisfy once its turns are read. Each ``check_*`` returns all problems of its kind."""

from __future__ import annotations

import difflib
import re
import unicodedata
from typing import Any

from finetune_pipeline.data.examples import ORIGINS, Message
from finetune_pipeline.data.formats import Turns, quoted
from finetune_pipeline.findings import Finding, Severity
from finetune_pipeline.spec import TaskSpec

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SPECIAL_TOKEN = re.compile(r"<\|[^|<>\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")
_PLACEHOLDER = re.compile(r"\{\{[^{}\n]{1,60}\}\}")
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,6}|#x[0-9a-fA-F]{1,5});")


def _finding(rule: str, place: str, message: str, fix: str, severity: Severity = "error") -> Finding:
    return Finding(f"data.{rule}", severity, place, message, fix)


def check_roles(turns: Turns, place: str) -> list[Finding]:
    """A system turn may come first; then user and assistant take turns; the assistant speaks last."""
    if not turns.whole:
        return []
    roles = [m["role"] for m in turns.messages]
    found = []
    start = 1 if roles[0] == "system" else 0
    for i, role in enumerate(roles[start:]):
        expected = ("user", "assistant")[i % 2]
        if role != expected:
            found.append(
                _finding(
                    "role_order",
                    place,
                    f"turn {start + i + 1} is by {role!r} where {expected!r} must speak "
                    f"(order: {', '.join(roles[:8])}{', …' if len(roles) > 8 else ''})",
                    "at most one system turn, first; then user and assistant in turn",
                )
            )
            break
    if len(roles) == start:
        found.append(_finding("role_order", place, "there is no user turn", "add what the user says"))
    if roles[-1] != "assistant":
        found.append(
            _finding(
                "no_assistant_last",
                place,
                f"the last turn is by {roles[-1]!r}: there is no answer to learn",
                "end the row with the assistant's answer",
            )
        )
    return found


def check_system_prompt(turns: Turns, spec: TaskSpec, place: str) -> list[Finding]:
    """Training and serving must say the same in front of every example: what the spec says."""
    if turns.shape != "messages" or not turns.whole:
        return []
    systems = [m["content"] for m in turns.messages if m["role"] == "system"]
    if not systems:
        return [
            _finding(
                "missing_system_prompt",
                place,
                "the row has no system turn",
                "put the spec's system_prompt in front, or use the `text`/`label` format, which adds it",
            )
        ]
    wanted = spec.system_prompt.replace("\r\n", "\n").strip()
    if systems[0] == wanted:
        return []
    at = next(
        (i for i, (a, b) in enumerate(zip(systems[0], wanted, strict=False)) if a != b),
        min(len(systems[0]), len(wanted)),
    )
    return [
        _finding(
            "wrong_system_prompt",
            place,
            f"the system turn differs from the spec's system_prompt from character "
            f"{at + 1} on: {quoted(systems[0][at : at + 40])} where the spec has {quoted(wanted[at : at + 40])}",
            "use the spec's system_prompt word for word",
        )
    ]


def check_label(row: dict[str, Any], turns: Turns, spec: TaskSpec, place: str) -> list[Finding]:
    """The answer of a label task is one of the labels, letter by letter."""
    answers = [m["content"] for m in turns.messages[-1:] if m["role"] == "assistant"]
    found = []
    declared = row.get("label") if turns.shape == "messages" else None
    if declared is not None and not isinstance(declared, str):
        found.append(
            _finding(
                "wrong_type",
                place,
                f"`label` must be text or null, found {quoted(declared)}",
                "write it as text, in double quotes",
            )
        )
    elif declared is not None and answers and declared.strip() != answers[0]:
        found.append(
            _finding(
                "label_mismatch",
                place,
                f"`label` says {quoted(declared)}, the assistant's answer {quoted(answers[0])}",
                "make them equal, or leave `label` out",
            )
        )
    if not spec.labels or not answers or answers[0] in spec.labels:
        return found
    return [
        *found,
        _finding(
            "unknown_label",
            place,
            f"{quoted(answers[0])} is not one of the {len(spec.labels)} labels",
            nearest_label(answers[0], spec.labels),
        ),
    ]


def nearest_label(text: str, labels: list[str]) -> str:
    """The fix to suggest for an unknown label."""
    folded = {" ".join(re.split(r"[\s_\-]+", label.casefold().strip())): label for label in labels}
    plain = " ".join(re.split(r"[\s_\-]+", text.casefold().strip()))
    if plain in folded:
        return f"write {folded[plain]!r} (it differs only in case, blanks or joining marks)"
    near = difflib.get_close_matches(plain[:200], list(folded), 1, 0.6)
    if near:
        return f"did you mean {folded[near[0]]!r}?"
    return f"use one of: {', '.join(labels[:12])}{', …' if len(labels) > 12 else ''}"


def check_size(turns: Turns, spec: TaskSpec, place: str) -> list[Finding]:
    """Not longer in all turns together than `max_chars`, user text not shorter than `min_chars` (characters)."""
    found = []
    total = sum(len(m["content"]) for m in turns.messages)
    if total > spec.data.max_chars:
        found.append(
            _finding(
                "too_long",
                place,
                f"{total} characters in all turns, {spec.data.max_chars} are allowed",
                "shorten the row, or raise data.max_chars",
            )
        )
    users = [m["content"] for m in turns.messages if m["role"] == "user"]
    length = len("\n".join(users))
    if users and length < spec.data.min_chars:
        found.append(
            _finding(
                "too_short",
                place,
                f"{length} characters of user text, {spec.data.min_chars} are needed",
                "remove the row, or lower data.min_chars",
            )
        )
    return found


def check_characters(turns: Turns, place: str) -> list[Finding]:
    """No control characters, no left-overs of templates; HTML entities and U+FFFD are only warned about."""
    found = []
    for i, message in enumerate(turns.messages):
        if message["role"] == "system":
            continue  # compared with the spec's prompt as a whole
        where, text = f"the {message['role']} text (turn {i + 1})", message["content"]
        if control := _CONTROL.search(text):
            name = unicodedata.name(control[0], f"U+{ord(control[0]):04X}")
            found.append(
                _finding(
                    "control_characters",
                    place,
                    f"{where} holds {len(_CONTROL.findall(text))} control "
                    f"characters, the first ({name}) at character {control.start() + 1}",
                    "remove them; only line breaks and tabs are allowed",
                )
            )
        for pattern, what, fix in (
            (_SPECIAL_TOKEN, "a chat template's special token", "remove it: the template adds its own"),
            (_PLACEHOLDER, "an unfilled placeholder", "fill the placeholder in, or remove the row"),
        ):
            if hit := pattern.search(text):
                found.append(_finding("template_residue", place, f"{where} holds {what}: {quoted(hit[0])}", fix))
        if hit := _ENTITY.search(text):
            found.append(
                _finding(
                    "html_entity",
                    place,
                    f"{where} holds the HTML entity {hit[0]!r}",
                    "unescape the text once, at its source, unless people really write this",
                    "warning",
                )
            )
        if "\ufffd" in text:
            found.append(
                _finding(
                    "replacement_character",
                    place,
                    f"{where} holds U+FFFD: characters were lost before",
                    "take the text from its source again, read as UTF-8",
                    "warning",
                )
            )
    return found


def check_extras(row: dict[str, Any], place: str) -> list[Finding]:
    """`origin`, `group` and `tags`, when given, are what they must be."""
    found = []
    origin = row.get("origin")
    if origin is not None and (not isinstance(origin, str) or origin not in ORIGINS):
        found.append(
            _finding("unknown_origin", place, f"`origin` is {quoted(origin)}", f"use one of {', '.join(ORIGINS)}")
        )
    group = row.get("group")
    if group is not None and not isinstance(group, str):
        found.append(
            _finding("wrong_type", place, f"`group` must be text or null, found {quoted(group)}", "write it as text")
        )
    tags = row.get("tags")
    if tags is not None and not (isinstance(tags, list) and all(isinstance(t, str) for t in tags)):
        found.append(
            _finding("wrong_type", place, f"`tags` must be a list of texts, found {quoted(tags)}", 'write ["…"]')
        )
    return found


def check_row(row: dict[str, Any], turns: Turns, spec: TaskSpec, place: str) -> list[Finding]:
    """All findings of all rules."""
    return [
        *check_roles(turns, place),
        *check_system_prompt(turns, spec, place),
        *check_label(row, turns, spec, place),
        *check_size(turns, spec, place),
        *check_characters(turns, place),
        *check_extras(row, place),
    ]


def final_messages(turns: Turns, spec: TaskSpec) -> list[Message]:
    """The turns of a sound row, with the spec's system prompt to the letter (outer blanks included)."""
    return [{"role": "system", "content": spec.system_prompt}, *(m for m in turns.messages if m["role"] != "system")]
