"""Rules for a row whose turns were read. Each ``check_*`` returns all its findings. In texts, control characters and
template residue are errors, other oddities warnings."""

from __future__ import annotations

import re
import unicodedata
from typing import Any, NamedTuple

from finetune_pipeline.data.answer_rules import LAST_FIX, form_problems, has_form, nearest_label
from finetune_pipeline.data.dedup.text_similarity import INVISIBLE, odd_invisible
from finetune_pipeline.data.examples import ORIGINS, Message
from finetune_pipeline.data.formats import Turns
from finetune_pipeline.data.formats.instruction import NO_INPUT
from finetune_pipeline.data.quoting import quoted, row_finding
from finetune_pipeline.findings import Finding, Severity
from finetune_pipeline.spec import TaskSpec

_ORDER = "at most one system turn, first; then user and assistant in turn; after a call the tool's result"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SUSPECT = re.compile(rf"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd<&{INVISIBLE}]")
_SUSPECT_WORDS = ("{{", "[INST", "[/INST", "###", "Below is an i")
"""A text without any of these passes every rule below; quicker than to apply all of them."""


class _Pattern(NamedTuple):
    """What a text should not hold: the finding's rule, the pattern, what it is, what to do."""

    rule: str
    pattern: re.Pattern[str]
    what: str
    fix: str
    severity: Severity = "warning"


_PATTERNS = (
    _Pattern(
        "template_residue",
        re.compile(r"<\|[^|<>\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"),
        "a chat template's special token",
        "remove it: the template adds its own",
        "error",
    ),
    _Pattern(
        "template_residue",
        re.compile(r"\{\{[^{}\n]{1,60}\}\}"),
        "an unfilled placeholder",
        "fill the placeholder in, or remove the row",
        "error",
    ),
    _Pattern(
        "html_entity",
        re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,6}|#x[0-9a-fA-F]{1,5});"),
        "the HTML entity",
        "unescape the text once, at its source, unless people really write this",
    ),
    _Pattern(
        "prompt_boilerplate",
        re.compile(
            r"Below is an instruction that describes a task|^###\s?(?:Instruction|Input|Response|Human|Assistant):",
            re.M,
        ),
        "the frame of a prompt",
        "keep what stands inside the frame only",
    ),
    _Pattern(
        "calculator_annotation",
        re.compile(r"<<[^<>\n=]{0,80}\d[^<>\n=]{0,20}=[^<>\n=]{0,20}\d[^<>\n=]{0,20}>>"),
        "a calculator's note",
        "remove the notes, unless they are to be learnt",
    ),
)


def check_row(row: dict[str, Any], turns: Turns, spec: TaskSpec, place: str) -> list[Finding]:
    return [
        *check_roles(turns, place),
        *check_system_prompt(turns, spec, place),
        *check_label(row, turns, spec, place),
        *check_answer_form(turns, spec, place),
        *check_size(turns, spec, place),
        *check_texts(turns, place),
        *check_extras(row, place),
        *check_calls(turns.messages, turns.tools, place),
    ]


def final_messages(turns: Turns, spec: TaskSpec) -> list[Message]:
    """The turns of a sound row, with the spec's system prompt to the letter (outer blanks included)."""
    return [{"role": "system", "content": spec.system_prompt}, *(m for m in turns.messages if m["role"] != "system")]


def check_roles(turns: Turns, place: str) -> list[Finding]:
    """A system turn may come first; then user and assistant take turns; the assistant speaks last. An assistant's turn
    that calls tools is followed by their results, and these by the assistant."""
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
    """The system prompt of a chat is the one of the spec, so that training and serving begin alike. Rows that are no
    chats get it; so do chats without a system turn if `data.inject` says so."""
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


def check_texts(turns: Turns, place: str) -> list[Finding]:
    """All findings about the texts; the system turn is compared with the spec's prompt as a whole instead."""
    findings: list[Finding] = []
    for i, message in enumerate(turns.messages):
        text, role = message["content"], message["role"]
        if role == "system":
            continue
        if _SUSPECT.search(text) or any([word in text for word in _SUSPECT_WORDS]):
            findings += _check_text(text, f"the {role} text (turn {i + 1})", place)
        if role == "user" and len(text) < 12 and text.casefold() in NO_INPUT and "input" in text.casefold():
            problem = f"the user text (turn {i + 1}) is {quoted(text)}: a word a template put where nothing was"
            findings.append(row_finding("template_residue", place, problem, "remove the row"))
    return findings


def _check_text(text: str, where: str, place: str) -> list[Finding]:
    findings = []
    if control := _CONTROL.search(text):
        name = unicodedata.name(control[0], f"U+{ord(control[0]):04X}")
        many = len(_CONTROL.findall(text))
        problem = f"{where} holds {many} control characters, the first ({name}) at character {control.start() + 1}"
        findings.append(
            row_finding("control_characters", place, problem, "remove them; only line breaks and tabs are allowed")
        )
    for rule, pattern, what, fix, severity in _PATTERNS:
        if hit := pattern.search(text):
            findings.append(row_finding(rule, place, f"{where} holds {what}: {quoted(hit[0])}", fix, severity))
    if hidden := odd_invisible(text):
        many, name, at = hidden
        problem = f"{where} holds {many} invisible characters, the first ({name}) at character {at + 1}"
        fix = "remove them at the source: they hide words from searches, and a model learns them as tokens"
        findings.append(row_finding("invisible_characters", place, problem, fix, "warning"))
    if "\ufffd" in text:
        fix = "take the text from its source again, read as UTF-8"
        problem = f"{where} holds U+FFFD: characters were lost before"
        findings.append(row_finding("replacement_character", place, problem, fix, "warning"))
    return findings
