"""Checks a row whose turns were read. Each ``check_*`` yields its findings as (rule, message, fix). In texts, control characters
and template residue are errors; other oddities are warnings."""

import re
import unicodedata
from collections.abc import Iterator
from itertools import chain
from typing import Any

from finetune_pipeline.data.answer_rules import LAST_FIX, form_problems, has_form, nearest_label
from finetune_pipeline.data.dedup.text_similarity import INVISIBLE, odd_invisible
from finetune_pipeline.data.examples import ORIGINS, Message
from finetune_pipeline.data.formats import Turns
from finetune_pipeline.data.formats.instruction import NO_INPUT
from finetune_pipeline.data.quoting import quoted, row_finding
from finetune_pipeline.data.validate.slots import forgotten_slot
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec import TaskSpec

_ORDER_FIX = "at most one system turn, first; then user and assistant turns alternate; a tool's result follows its call"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SUSPECT = re.compile(rf"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd<&ÃÂ{INVISIBLE}]")
_SUSPECT_WORDS = ("[INST", "[/INST", "###", "Below is an i", "â€")
"""A text without these words and without _SUSPECT characters passes every rule below: a fast pre-check."""
_PATTERNS = tuple((rule, name, fix, re.compile(pattern, re.M)) for rule, name, fix, pattern in (
    ("template_residue", "a chat template's special token", "remove it: the template adds its own",
     r"<\|[^|<>\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"),
    ("html_entity", "the HTML entity", "unescape the text once, at its source, unless people really write this",
     r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,6}|#x[0-9a-fA-F]{1,5});"),
    ("mojibake", "UTF-8 that was read as another encoding", "export the text again and read it as UTF-8",
     r"Ã[\xa1-\xaa\xac-\xba\xbc-\xbfŸ„–œ]|Â[\xa1-\xaa\xac-\xba\xbc-\xbf]|â€[™œ“”˜¦\x9d]"),
    ("prompt_boilerplate", "a prompt template", "keep only what the template wraps",
     r"Below is an instruction that describes a task|^###\s?(?:Instruction|Input|Response|Human|Assistant):"),
    ("calculator_annotation", "a calculator's note", "remove the notes, unless the model should learn them",
     r"<<[^<>\n=]{0,80}\d[^<>\n=]{0,20}=[^<>\n=]{0,20}\d[^<>\n=]{0,20}>>"),
))  # fmt: skip
"""Patterns that no text should hold: the finding's rule, description, fix and regular expression."""
_WARNINGS = {rule for rule, *_ in _PATTERNS} - {"template_residue"} | {"invisible_characters", "replacement_character"}
"""Rules whose findings are warnings; those of all other rules are errors."""

Problems = Iterator[tuple[str, str, str]]
"""Rule, message and fix."""


def check_row(row: dict[str, object], turns: Turns, spec: TaskSpec, place: str) -> list[Finding]:
    """Run every check on a row, given as an object of a known format (`row`) and as its turns."""
    problems = chain(
        check_roles(turns),
        check_system_prompt(turns, spec),
        check_label(row, turns, spec),
        check_answer_form(turns, spec),
        check_size(turns, spec),
        check_texts(turns),
        check_slots(turns, spec),
        check_extras(row),
        check_calls(turns),
    )
    return [
        row_finding(rule, place, message, fix, "warning" if rule in _WARNINGS else "error")
        for rule, message, fix in problems
    ]


def final_messages(turns: Turns, spec: TaskSpec) -> list[Message]:
    """Return the turns of a valid row, with the spec's exact system prompt (outer blanks included)."""
    return [{"role": "system", "content": spec.system_prompt}, *(m for m in turns.messages if m["role"] != "system")]


def check_roles(turns: Turns) -> Problems:
    """Check the order: a system turn may come first, then user and assistant take turns, and the assistant speaks last. Tool
    calls of the assistant are followed by their results, and these by the assistant."""
    if not turns.whole:
        return
    roles = [m["role"] for m in turns.messages]
    start = 1 if roles[0] == "system" else 0
    expected: tuple[str, ...] = ("user",)
    for i, message in enumerate(turns.messages[start:], start):
        role = message["role"]
        if role not in expected:
            order = f"{', '.join(roles[:8])}{', …' if len(roles) > 8 else ''}"
            speakers = " or ".join(map(repr, expected))
            yield "role_order", f"turn {i + 1} is by {role!r} where {speakers} must speak (order: {order})", _ORDER_FIX
            break
        if role == "assistant":
            expected = ("tool",) if "tool_calls" in message else ("user",)
        else:
            expected = ("tool", "assistant") if role == "tool" else ("assistant",)
    if len(roles) == start:
        yield "role_order", "there is no user turn", "add the user's turn"
    if roles[-1] != "assistant":
        problem = f"the last turn is by {roles[-1]!r}: there is no answer to learn from"
        yield "no_assistant_last", problem, "end the row with the assistant's answer"
    elif not [m for m in turns.messages if m["role"] == "assistant" and m.get("weight") != 0]:
        fix = "give the answer to learn the weight 1, or remove the row"
        yield "nothing_to_learn", "every assistant turn has the weight 0", fix


def check_system_prompt(turns: Turns, spec: TaskSpec) -> Problems:
    """Check that a chat has the spec's system prompt, so that training and serving begin the same way. Other rows get the
    prompt later, and so do chats without a system turn if `data.inject` is set."""
    if not turns.chat or not turns.whole:
        return
    prompt = next((m["content"] for m in turns.messages if m["role"] == "system"), None)
    expected = spec.system_prompt.replace("\r\n", "\n").strip()
    if prompt is None and not spec.data.inject:
        fix = "prepend the spec's system_prompt, or set data.inject: true to add it"
        yield "missing_system_prompt", "the row has no system turn", fix
    elif prompt is not None and prompt != expected:
        at = 0
        while prompt[at : at + 1] == expected[at : at + 1]:
            at += 1
        problem = (
            f"the system turn differs from the spec's system_prompt from character {at + 1} on: "
            f"{quoted(prompt[at : at + 40])} where the spec has {quoted(expected[at : at + 40])}"
        )
        yield "wrong_system_prompt", problem, "use the spec's system_prompt word for word"


def _answer(turns: Turns) -> str | None:
    """Return the last assistant text; None if the last turn is not the assistant's."""
    last = turns.messages[-1:]
    return last[0]["content"] if last and last[0]["role"] == "assistant" else None


def check_label(row: dict[str, Any], turns: Turns, spec: TaskSpec) -> Problems:
    """Check that the answer of a label task is exactly one of the labels."""
    answer = _answer(turns)
    declared = None if turns.shape == "text_label" else row.get("label")
    is_rating = isinstance(declared, bool) and not spec.labels  # of the answer, as in data for KTO
    if declared is not None and not isinstance(declared, str) and not is_rating:
        problem = f"`label` must be text or null, found {quoted(declared)}"
        yield "wrong_type", problem, "write it as text, in double quotes"
    elif declared and answer is not None and spec.labels and declared.strip() != answer:
        problem = f"`label` is {quoted(declared)}, but the assistant's answer is {quoted(answer)}"
        yield "label_mismatch", problem, "make them equal, or omit `label`"
    if spec.labels and answer is not None and answer not in spec.labels:
        problem = f"{quoted(answer)} is not one of the {len(spec.labels)} labels"
        yield "unknown_label", problem, nearest_label(answer, spec.labels)


def check_answer_form(turns: Turns, spec: TaskSpec) -> Problems:
    """Check that a free answer has the declared form: JSON by its schema, a pattern, a length."""
    if has_form(spec.output) and (answer := _answer(turns)) and answer.strip():
        yield from ((f"answer_{rule}", message, LAST_FIX) for rule, message in form_problems(answer, spec.output))


def check_size(turns: Turns, spec: TaskSpec) -> Problems:
    """Check that all turns together have at most `max_chars` characters, and the user text at least `min_chars`."""
    total = sum([len(m["content"]) for m in turns.messages])
    if total > spec.data.max_chars:
        problem = f"{total} characters in all turns, {spec.data.max_chars} are allowed"
        yield "too_long", problem, "shorten the row, or raise data.max_chars"
    users = [len(m["content"]) + 1 for m in turns.messages if m["role"] == "user"]
    length = sum(users) - 1  # with a line break between turns
    if users and length < spec.data.min_chars:
        problem = f"{length} characters of user text, {spec.data.min_chars} are needed"
        yield "too_short", problem, "remove the row, or lower data.min_chars"


def check_extras(row: dict[str, object]) -> Problems:
    """Check type and value of `origin`, `group`, `tags` and `generator`, if present."""
    origin, tags = row.get("origin"), row.get("tags")
    if origin is not None and (not isinstance(origin, str) or origin not in ORIGINS):
        yield "unknown_origin", f"`origin` is {quoted(origin)}", f"use one of {', '.join(ORIGINS)}"
    if tags is not None and not (isinstance(tags, list) and all(isinstance(t, str) for t in tags)):
        yield "wrong_type", f"`tags` must be a list of texts, found {quoted(tags)}", 'write ["…"]'
    for key in ("group", "generator"):
        if not isinstance(row.get(key), str | None):
            yield "wrong_type", f"`{key}` must be text or null, found {quoted(row[key])}", "write it as text"


def check_calls(turns: Turns) -> Problems:
    """Check that calls name a tool of the row (if it has tools), and that results answer an existing call."""
    offered = {t["function"]["name"] for t in turns.tools or ()}
    open_ids: set[str] = set()
    for i, turn in enumerate(turns.messages, 1):
        if calls := turn.get("tool_calls"):
            open_ids = {c["id"] for c in calls if "id" in c}
            for name in [call["function"]["name"] for call in calls if offered]:
                if name not in offered:
                    fix = f"add it to `tools`, or use one of: {', '.join(quoted(n) for n in sorted(offered)[:8])}"
                    yield "unknown_tool", f"turn {i} calls {quoted(name)}, not a tool", fix
        answered = turn.get("tool_call_id")
        if answered and open_ids and answered not in open_ids:
            problem = f"turn {i} answers the call {quoted(answered)}, which does not exist"
            yield "bad_tool_call", problem, "give the result the id of its call"


def check_texts(turns: Turns) -> Problems:
    """Check the texts, except the system turn, which is compared with the spec's prompt instead."""
    for i, message in enumerate(turns.messages, 1):
        text, role = message["content"], message["role"]
        if role == "system":
            continue
        if _SUSPECT.search(text) or any(map(text.__contains__, _SUSPECT_WORDS)):
            yield from _check_text(text, f"the {role} text (turn {i})")
        if role == "user" and len(text) < 12 and text.casefold() in NO_INPUT and "input" in text.casefold():
            problem = f"the user text (turn {i}) is {quoted(text)}: a placeholder for a missing value"
            yield "template_residue", problem, "remove the row"


def check_slots(turns: Turns, spec: TaskSpec) -> Problems:
    """Check that no slot of a template was left unfilled; code may hold double braces."""
    texts = [(i, m["role"], m["content"]) for i, m in enumerate(turns.messages, 1) if m["role"] != "system"]
    for i, role, text in texts:
        if "{{" in text and (slot := forgotten_slot(text, [t for _, _, t in texts], spec.system_prompt)):
            problem = f"the {role} text (turn {i}) holds a slot of a template that was not filled: {quoted(slot)}"
            yield "template_residue", problem, "fill it in, or remove the row"


def _check_text(text: str, where: str) -> Problems:
    if control := _CONTROL.search(text):
        name = unicodedata.name(control[0], f"U+{ord(control[0]):04X}")
        count = len(_CONTROL.findall(text))
        problem = f"{where} holds {count} control characters, the first ({name}) at character {control.start() + 1}"
        yield "control_characters", problem, "remove them; only line breaks and tabs are allowed"
    for rule, description, fix, pattern in _PATTERNS:
        if hit := pattern.search(text):
            yield rule, f"{where} holds {description}: {quoted(hit[0])}", fix
    if hidden := odd_invisible(text):
        count, name, at = hidden
        problem = f"{where} holds {count} invisible characters, the first ({name}) at character {at + 1}"
        fix = "remove them at the source: they hide words from search, and the model learns them as tokens"
        yield "invisible_characters", problem, fix
    if "\ufffd" in text:
        problem = f"{where} holds U+FFFD: characters were lost before this point"
        yield "replacement_character", problem, "export the text again and read it as UTF-8"
