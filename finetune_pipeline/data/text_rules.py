"""What the texts of a row must not hold: control characters and left-overs of templates; and what is only odd."""

from __future__ import annotations

import re
import unicodedata

from finetune_pipeline.data.formats import NO_INPUT, Turns
from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.findings import Finding, Severity
from finetune_pipeline.spec import TaskSpec

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SPECIAL_TOKEN = re.compile(r"<\|[^|<>\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")
_PLACEHOLDER = re.compile(r"\{\{[^{}\n]{1,60}\}\}")
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,6}|#x[0-9a-fA-F]{1,5});")
_TAG = re.compile(
    r"</?(?:p|br|div|span|b|i|u|a|em|strong|ul|ol|li|td|tr|th|table|tbody|img|h[1-6]|font|center|script|style|html|body)"
    r"(?:\s[^<>\n]{0,200})?/?>",
    re.I,
)
_BOILERPLATE = re.compile(
    r"Below is an instruction that describes a task|^###\s?(?:Instruction|Input|Response|Human|Assistant):", re.M
)
_CALCULATION = re.compile(r"<<[^<>\n=]{0,80}\d[^<>\n=]{0,20}=[^<>\n=]{0,20}\d[^<>\n=]{0,20}>>")
_WORD = re.compile(r"\w")
_WORDS = re.compile(r"\w+")
_REFUSAL = re.compile(
    r"\b(?:[Aa]s|I am|I'm|I’m|being) (?:just )?an? (?:AI\b|artificial intelligence|(?:large )?language model)"
)
SUSPECT = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd<&]|\{\{|\[/?INST|###|Below is an i|AI\b|language model|artificial i"
)
"""A text without any of these passes every rule about what a text must not hold."""


def _finding(rule: str, place: str, message: str, fix: str, severity: Severity = "warning") -> Finding:
    return Finding(f"data.{rule}", severity, place, message, fix)


def check_texts(turns: Turns, spec: TaskSpec, place: str) -> list[Finding]:
    """All findings about the texts; the system turn is compared with the spec's prompt as a whole instead."""
    found: list[Finding] = []
    for i, message in enumerate(turns.messages):
        text = message["content"]
        if message["role"] == "system":
            continue
        if SUSPECT.search(text):
            found += _check_text(text, message["role"], f"the {message['role']} text (turn {i + 1})", place)
        if message["role"] == "user" and len(text) < 12 and text.casefold() in NO_INPUT and "input" in text.casefold():
            found.append(
                _finding(
                    "template_residue",
                    place,
                    f"the user text (turn {i + 1}) is {quoted(text)}: a word a template put where nothing was",
                    "remove the row",
                    "error",
                )
            )
    return found + _check_echo(turns, spec, place)


def _check_text(text: str, role: str, where: str, place: str) -> list[Finding]:
    found = []
    if control := CONTROL.search(text):
        name = unicodedata.name(control[0], f"U+{ord(control[0]):04X}")
        found.append(
            _finding(
                "control_characters",
                place,
                f"{where} holds {len(CONTROL.findall(text))} control "
                f"characters, the first ({name}) at character {control.start() + 1}",
                "remove them; only line breaks and tabs are allowed",
                "error",
            )
        )
    for pattern, what, fix in (
        (_SPECIAL_TOKEN, "a chat template's special token", "remove it: the template adds its own"),
        (_PLACEHOLDER, "an unfilled placeholder", "fill the placeholder in, or remove the row"),
    ):
        if hit := pattern.search(text):
            found.append(_finding("template_residue", place, f"{where} holds {what}: {quoted(hit[0])}", fix, "error"))
    for rule, pattern, what, fix in (
        (
            "html_entity",
            _ENTITY,
            "the HTML entity",
            "unescape the text once, at its source, unless people really write this",
        ),
        ("html_tag", _TAG, "the HTML tag", "take the text without its markup, unless people really write this"),
        ("prompt_boilerplate", _BOILERPLATE, "the frame of a prompt", "keep what stands inside the frame only"),
        (
            "calculator_annotation",
            _CALCULATION,
            "a calculator's note",
            "remove the notes, unless they are to be learnt",
        ),
    ):
        if hit := pattern.search(text):
            found.append(_finding(rule, place, f"{where} holds {what} {quoted(hit[0])}", fix))
    if "\ufffd" in text:
        found.append(
            _finding(
                "replacement_character",
                place,
                f"{where} holds U+FFFD: characters were lost before",
                "take the text from its source again, read as UTF-8",
            )
        )
    if role == "assistant" and (hit := _REFUSAL.search(text)):
        found.append(
            _finding(
                "refusal",
                place,
                f"{where} speaks of itself as a model ({quoted(hit[0])}): perhaps a refusal, not an answer",
                "give the answer that is wanted, or remove the row",
            )
        )
    return found


def echoes(answer: str, said: str) -> bool:
    """Whether two texts of about the same length are the same words, whatever their case and punctuation."""
    if 2 * len(answer) < len(said) or 2 * len(said) < len(answer):
        return False
    first, second = _WORD.search(answer), _WORD.search(said)
    if first is None or second is None:
        return answer == said
    if first[0].casefold() != second[0].casefold():
        return False
    return _WORDS.findall(answer.casefold()) == _WORDS.findall(said.casefold())


def _check_echo(turns: Turns, spec: TaskSpec, place: str) -> list[Finding]:
    """A free answer that only repeats what was said."""
    if spec.labels or not turns.whole or len(turns.messages) < 2:
        return []
    answer = turns.messages[-1]["content"]
    if not answer or not any(echoes(answer, said) for said in (turns.messages[-2]["content"], turns.subject) if said):
        return []
    return [
        _finding(
            "answer_equals_input",
            place,
            f"the answer repeats the words of the input: {quoted(answer)}",
            "check that more was to be changed than case and punctuation, or remove the row",
        )
    ]
