"""Rules for a row whose turns were read. Each ``check_*`` returns all its findings."""

from __future__ import annotations

import difflib
import re
from datetime import UTC, date, datetime
from typing import Any

from finetune_pipeline.data.answer_rules import LAST_FIX, form_problems, has_form
from finetune_pipeline.data.examples import ORIGINS, Message
from finetune_pipeline.data.formats import Turns
from finetune_pipeline.data.quoting import quoted, row_finding
from finetune_pipeline.data.validate.text_rules import check_texts
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec import TaskSpec

_LATEST = 32_503_680_000
"""The year 3000, in seconds since 1970: a larger number counts something smaller than seconds."""
_SAME = re.compile(r"[\s_\-]+")
_ORDER = "at most one system turn, first; then user and assistant in turn; after a call the tool's result"


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


def check_roles(turns: Turns, place: str) -> list[Finding]:
    """A system turn may come first; then user and assistant take turns; the assistant speaks last.

    An assistant's turn that calls tools is followed by their results, and these by the assistant.
    """
    if not turns.whole:
        return []
    roles = [m["role"] for m in turns.messages]
    findings = []
    start = 1 if roles[0] == "system" else 0
    expected: tuple[str, ...] = ("user",)
    for i, message in enumerate(turns.messages[start:], start):
        role = message["role"]
        if role not in expected:
            order = f"{', '.join(roles[:8])}{', …' if len(roles) > 8 else ''}"
            wanted = " or ".join(map(repr, expected))
            problem = f"turn {i + 1} is by {role!r} where {wanted} must speak (order: {order})"
            findings.append(row_finding("role_order", place, problem, _ORDER))
            break
        if role == "assistant":
            expected = ("tool",) if "tool_calls" in message else ("user",)
        else:
            expected = ("tool", "assistant") if role == "tool" else ("assistant",)
    if len(roles) == start:
        findings.append(row_finding("role_order", place, "there is no user turn", "add what the user says"))
    if roles[-1] != "assistant":
        problem = f"the last turn is by {roles[-1]!r}: there is no answer to learn"
        findings.append(row_finding("no_assistant_last", place, problem, "end the row with the assistant's answer"))
    elif all(m.get("weight") == 0 for m in turns.messages if m["role"] == "assistant"):
        fix = "give the answer to be learnt the weight 1, or remove the row"
        findings.append(row_finding("nothing_to_learn", place, "every assistant turn has the weight 0", fix))
    return findings


def check_system_prompt(turns: Turns, spec: TaskSpec, place: str) -> list[Finding]:
    """The system prompt of a chat is the one of the spec, so that training and serving begin alike.

    Rows that are no chats get the spec's prompt; so do chats without a system turn if `data.inject` says so.
    """
    if not turns.chat or not turns.whole:
        return []
    prompt = next((m["content"] for m in turns.messages if m["role"] == "system"), None)
    if prompt is None:
        fix = "put the spec's system_prompt in front, or set data.inject: true, which adds it"
        missing = row_finding("missing_system_prompt", place, "the row has no system turn", fix)
        return [] if spec.data.inject else [missing]
    wanted = spec.system_prompt.replace("\r\n", "\n").strip()
    if prompt == wanted:
        return []
    differing = (i for i, (a, b) in enumerate(zip(prompt, wanted, strict=False)) if a != b)
    at = next(differing, min(len(prompt), len(wanted)))
    problem = (
        f"the system turn differs from the spec's system_prompt from character {at + 1} on: "
        f"{quoted(prompt[at : at + 40])} where the spec has {quoted(wanted[at : at + 40])}"
    )
    return [row_finding("wrong_system_prompt", place, problem, "use the spec's system_prompt word for word")]


def check_label(row: dict[str, Any], turns: Turns, spec: TaskSpec, place: str) -> list[Finding]:
    """The answer of a label task is one of the labels, letter by letter."""
    answer = turns.messages[-1]["content"] if turns.messages and turns.messages[-1]["role"] == "assistant" else None
    findings = []
    declared = None if turns.shape == "text_label" else row.get("label")
    if declared is not None and not isinstance(declared, str):
        problem = f"`label` must be text or null, found {quoted(declared)}"
        findings.append(row_finding("wrong_type", place, problem, "write it as text, in double quotes"))
    elif declared and answer is not None and spec.labels and declared.strip() != answer:
        problem = f"`label` says {quoted(declared)}, the assistant's answer {quoted(answer)}"
        findings.append(row_finding("label_mismatch", place, problem, "make them equal, or leave `label` out"))
    if spec.labels and answer is not None and answer not in spec.labels:
        problem = f"{quoted(answer)} is not one of the {len(spec.labels)} labels"
        findings.append(row_finding("unknown_label", place, problem, nearest_label(answer, spec.labels)))
    return findings


def check_answer_form(turns: Turns, spec: TaskSpec, place: str) -> list[Finding]:
    """A free answer has the form the spec declares: JSON by its schema, a pattern, a length."""
    last = turns.messages[-1:]
    if not has_form(spec.output) or not last or last[0]["role"] != "assistant" or not last[0]["content"].strip():
        return []
    problems = form_problems(last[0]["content"], spec.output)
    return [row_finding(f"answer_{rule}", place, message, LAST_FIX) for rule, message in problems]


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
    findings = []
    total = sum(len(m["content"]) for m in turns.messages)
    if total > spec.data.max_chars:
        problem = f"{total} characters in all turns, {spec.data.max_chars} are allowed"
        findings.append(row_finding("too_long", place, problem, "shorten the row, or raise data.max_chars"))
    users = [m["content"] for m in turns.messages if m["role"] == "user"]
    length = len("\n".join(users))
    if users and length < spec.data.min_chars:
        problem = f"{length} characters of user text, {spec.data.min_chars} are needed"
        findings.append(row_finding("too_short", place, problem, "remove the row, or lower data.min_chars"))
    return findings


def check_extras(row: dict[str, Any], place: str) -> list[Finding]:
    """`origin`, `group`, `tags` and `generator`, when given, have the right type and value."""
    findings = []
    origin, tags = row.get("origin"), row.get("tags")
    if origin is not None and (not isinstance(origin, str) or origin not in ORIGINS):
        fix = f"use one of {', '.join(ORIGINS)}"
        findings.append(row_finding("unknown_origin", place, f"`origin` is {quoted(origin)}", fix))
    if tags is not None and not (isinstance(tags, list) and all(isinstance(t, str) for t in tags)):
        problem = f"`tags` must be a list of texts, found {quoted(tags)}"
        findings.append(row_finding("wrong_type", place, problem, 'write ["…"]'))
    for key in ("group", "generator"):
        value = row.get(key)
        if value is not None and not isinstance(value, str):
            problem = f"`{key}` must be text or null, found {quoted(value)}"
            findings.append(row_finding("wrong_type", place, problem, "write it as text"))
    return findings


def read_time(value: Any, place: str) -> tuple[str | None, list[Finding]]:
    """(RFC 3339 in UTC or None, findings) of RFC 3339 text, of seconds since 1970, or of a date of Python's own.

    A time without a zone is read as UTC, with a warning.
    """
    if value is None or value == "":
        return None, []
    fix, findings = "write RFC 3339, such as 2026-05-01T12:00:00Z", []
    try:
        if isinstance(value, datetime):
            moment = value
        elif isinstance(value, date):
            moment = datetime(value.year, value.month, value.day, tzinfo=UTC)
        elif isinstance(value, str):
            moment = datetime.fromisoformat(value.strip())
        elif not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError
        elif abs(value) > _LATEST:
            fix = "seconds since 1970 are meant; divide milliseconds by 1000"
            raise ValueError
        else:
            moment = datetime.fromtimestamp(value, UTC)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
            message = f"`time` is {quoted(value)}, without a time zone; it was read as UTC"
            add = "add Z, or the offset from UTC, such as +02:00"
            findings.append(row_finding("time_without_zone", place, message, add, "warning"))
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z"), findings
    except (ValueError, OverflowError, OSError):  # also an offset that leads out of the years 1 to 9999
        return None, [row_finding("bad_time", place, f"`time` is {quoted(value)}, not a point in time", fix)]


def check_calls(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, place: str) -> list[Finding]:
    """Calls name a tool that is offered (where tools are given); results answer a call that was made."""
    findings = []
    offered = {t["function"]["name"] for t in tools or ()}
    open_ids: set[str] = set()
    for i, turn in enumerate(messages):
        calls = turn.get("tool_calls", ())
        if calls:
            open_ids = {c["id"] for c in calls if "id" in c}
        for call in calls:
            name = call["function"]["name"]
            if tools and name not in offered:
                fix = f"add it to `tools`, or use one of: {', '.join(quoted(n) for n in sorted(offered)[:8])}"
                problem = f"turn {i + 1} calls {quoted(name)}, not a tool"
                findings.append(row_finding("unknown_tool", place, problem, fix))
        answered = turn.get("tool_call_id")
        if answered and open_ids and answered not in open_ids:
            message = f"turn {i + 1} answers the call {quoted(answered)}, which nobody made"
            findings.append(row_finding("bad_tool_call", place, message, "give the result the id of its call"))
    return findings
