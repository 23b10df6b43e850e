"""What a row must satisfy once its turns are read. Each ``check_*`` returns all problems of its kind."""

from __future__ import annotations

import difflib
import re
from typing import Any

from finetune_pipeline.data.answer_rules import LAST_FIX, form_problems, has_form
from finetune_pipeline.data.examples import ORIGINS, Message
from finetune_pipeline.data.formats import Turns
from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.data.text_rules import check_texts
from finetune_pipeline.data.tool_calls import check_calls
from finetune_pipeline.findings import Finding, Severity
from finetune_pipeline.spec import TaskSpec

_SAME = re.compile(r"[\s_\-]+")


def _finding(rule: str, place: str, message: str, fix: str, severity: Severity = "error") -> Finding:
    return Finding(f"data.{rule}", severity, place, message, fix)


def check_roles(turns: Turns, place: str) -> list[Finding]:
    """A system turn may come first; then user and assistant take turns; the assistant speaks last.

    An assistant's turn that calls tools is followed by their results, and these by the assistant.
    """
    if not turns.whole:
        return []
    roles = [m["role"] for m in turns.messages]
    found = []
    start = 1 if roles[0] == "system" else 0
    expected: tuple[str, ...] = ("user",)
    for i, message in enumerate(turns.messages[start:], start):
        role = message["role"]
        if role not in expected:
            order = f"{', '.join(roles[:8])}{', …' if len(roles) > 8 else ''}"
            found.append(
                _finding(
                    "role_order",
                    place,
                    f"turn {i + 1} is by {role!r} where {' or '.join(map(repr, expected))} must speak (order: {order})",
                    "at most one system turn, first; then user and assistant in turn; after a call the tool's result",
                )
            )
            break
        if role == "assistant":
            expected = ("tool",) if "tool_calls" in message else ("user",)
        else:
            expected = ("tool", "assistant") if role == "tool" else ("assistant",)
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
    elif all(m.get("weight") == 0 for m in turns.messages if m["role"] == "assistant"):
        found.append(
            _finding(
                "nothing_to_learn",
                place,
                "every assistant turn has the weight 0",
                "give the answer to be learnt the weight 1, or remove the row",
            )
        )
    return found


def check_system_prompt(turns: Turns, spec: TaskSpec, place: str) -> list[Finding]:
    """Training and serving must say the same in front of every example: what the spec says.

    Rows that are no chats get the spec's prompt; so do chats without a system turn if `data.inject` says so.
    """
    if not turns.chat or not turns.whole:
        return []
    systems = [m["content"] for m in turns.messages if m["role"] == "system"]
    if not systems and spec.data.inject:
        return []
    if not systems:
        return [
            _finding(
                "missing_system_prompt",
                place,
                "the row has no system turn",
                "put the spec's system_prompt in front, or set data.inject: true, which adds it",
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
    declared = None if turns.shape == "text_label" else row.get("label")
    if declared is not None and not isinstance(declared, str):
        found.append(
            _finding(
                "wrong_type",
                place,
                f"`label` must be text or null, found {quoted(declared)}",
                "write it as text, in double quotes",
            )
        )
    elif declared and answers and spec.labels and declared.strip() != answers[0]:
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


def check_answer_form(turns: Turns, spec: TaskSpec, place: str) -> list[Finding]:
    """A gold answer that is written freely is in the form that is asked of the model: JSON by its schema, and the rest."""
    last = turns.messages[-1:]
    if not has_form(spec.output) or not last or last[0]["role"] != "assistant" or not last[0]["content"].strip():
        return []
    return [
        _finding(f"answer_{rule}", place, told, LAST_FIX)
        for rule, told in form_problems(last[0]["content"], spec.output)
    ]


def nearest_label(text: str, labels: list[str]) -> str:
    """The fix to suggest for an unknown label."""
    folded = {" ".join(_SAME.split(label.casefold().strip())): label for label in labels}
    plain = " ".join(_SAME.split(text[:200].casefold().strip()))
    if plain in folded:
        return f"write {folded[plain]!r} (it differs only in case, blanks or joining marks)"
    near = difflib.get_close_matches(plain, list(folded), 1, 0.6)
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


def check_extras(row: dict[str, Any], place: str) -> list[Finding]:
    """`origin`, `group`, `tags` and `generator`, when given, are what they must be."""
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
    generator = row.get("generator")
    if generator is not None and not isinstance(generator, str):
        found.append(
            _finding("wrong_type", place, f"`generator` must be text, found {quoted(generator)}", "write it as text")
        )
    return found


def check_row(row: dict[str, Any], turns: Turns, spec: TaskSpec, place: str) -> list[Finding]:
    """All findings of all rules."""
    return [
        *check_roles(turns, place),
        *check_system_prompt(turns, spec, place),
        *check_label(row, turns, spec, place),
        *check_answer_form(turns, spec, place),
        *check_size(turns, spec, place),
        *check_texts(turns, spec, place),
        *check_extras(row, place),
        *check_calls(turns.messages, turns.tools, place),
    ]


def final_messages(turns: Turns, spec: TaskSpec) -> list[Message]:
    """The turns of a sound row, with the spec's system prompt to the letter (outer blanks included)."""
    return [{"role": "system", "content": spec.system_prompt}, *(m for m in turns.messages if m["role"] != "system")]
