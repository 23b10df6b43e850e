"""Rules for the texts of a row: control characters and template residue are errors, other oddities warnings."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from finetune_pipeline.data.dedup.text_similarity import INVISIBLE, odd_invisible
from finetune_pipeline.data.formats import Turns
from finetune_pipeline.data.formats.instruction import NO_INPUT
from finetune_pipeline.data.quoting import quoted, row_finding
from finetune_pipeline.findings import Finding, Severity
from finetune_pipeline.spec import TaskSpec

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_REFUSAL = re.compile(
    r"\b(?:[Aa]s|I am|I'm|I’m|being) (?:just )?an? (?:AI\b|artificial intelligence|(?:large )?language model)"
)
_WORDS = re.compile(r"\w+")
_SUSPECT = re.compile(rf"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd<&{INVISIBLE}]")
_SUSPECT_WORDS = ("{{", "[INST", "[/INST", "###", "Below is an i", "AI", "language model", "artificial i")
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
        "html_tag",
        re.compile(
            r"</?(?:p|br|div|span|b|i|u|a|em|strong|ul|ol|li|td|tr|th|table|tbody|img|h[1-6]|font|center|script|style|html"
            r"|body)(?:\s[^<>\n]{0,200})?/?>",
            re.I,
        ),
        "the HTML tag",
        "take the text without its markup, unless people really write this",
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


def check_texts(turns: Turns, spec: TaskSpec, place: str) -> list[Finding]:
    """All findings about the texts; the system turn is compared with the spec's prompt as a whole instead."""
    findings: list[Finding] = []
    for i, message in enumerate(turns.messages):
        text, role = message["content"], message["role"]
        if role == "system":
            continue
        if _SUSPECT.search(text) or any(word in text for word in _SUSPECT_WORDS):
            findings += _check_text(text, role, f"the {role} text (turn {i + 1})", place)
        if role == "user" and len(text) < 12 and text.casefold() in NO_INPUT and "input" in text.casefold():
            problem = f"the user text (turn {i + 1}) is {quoted(text)}: a word a template put where nothing was"
            findings.append(row_finding("template_residue", place, problem, "remove the row"))
    return findings + _check_echo(turns, spec, place)


def _check_text(text: str, role: str, where: str, place: str) -> list[Finding]:
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
    if role == "assistant" and (hit := _REFUSAL.search(text)):
        problem = f"{where} speaks of itself as a model ({quoted(hit[0])}): perhaps a refusal, not an answer"
        findings.append(
            row_finding("refusal", place, problem, "give the answer that is wanted, or remove the row", "warning")
        )
    return findings


def _check_echo(turns: Turns, spec: TaskSpec, place: str) -> list[Finding]:
    """A free answer that only repeats what was said."""
    if spec.labels or not turns.whole or len(turns.messages) < 2:
        return []
    answer = turns.messages[-1]["content"]
    if not answer or not any(_echoes(answer, text) for text in (turns.messages[-2]["content"], turns.subject) if text):
        return []
    problem = f"the answer repeats the words of the input: {quoted(answer)}"
    fix = "check that more was to be changed than case and punctuation, or remove the row"
    return [row_finding("answer_equals_input", place, problem, fix, "warning")]


def _echoes(answer: str, text: str) -> bool:
    """Whether two texts of about the same length have the same words, whatever their case and punctuation."""
    if 2 * len(answer) < len(text) or 2 * len(text) < len(answer):
        return False
    words = _WORDS.findall(answer.casefold())
    return words == _WORDS.findall(text.casefold()) if words else answer == text
