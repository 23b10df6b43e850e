"""An instruction, what it is about, and the right output."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from finetune_pipeline.data.formats.base import (
    ANSWERS,
    RawFormat,
    Turns,
    clean_text,
    first_key,
    read_single_texts,
    register,
    text_of,
)
from finetune_pipeline.data.quoting import quoted, row_finding
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec import TaskSpec

_INPUTS = ("input", "context")
NO_INPUT = frozenset({"noinput", "no input", "n/a", "na", "none", "<noinput>", "<no input>", "[noinput]", "nan"})
"""What people write where an instruction has no input, in lower case."""


@register
class Instruction(RawFormat):
    """``{"instruction": "…", "input": "…", "output": "…"}``"""

    name, order = "instruction", 30
    documented = "`instruction`, `input` (may be empty), `output`"
    row_keys = ("instruction", *_INPUTS, "output")
    fields = ("instruction", "output")

    def recognises(self, keys: Collection[str]) -> bool:
        return "instruction" in keys

    def read(self, row: dict[str, Any], spec: TaskSpec, place: str, turns: Turns) -> set[str]:
        answer_key = first_key(row, ("output", *ANSWERS, "chosen")) or "output"
        key = first_key(row, _INPUTS)
        subject = None if key is None else _subject(row, key, place, turns.findings)
        read = read_single_texts(row, "instruction", answer_key, spec, place, turns, subject)
        return read if key is None else {*read, key}


def _subject(row: dict[str, Any], key: str, place: str, findings: list[Finding]) -> str | None:
    """What the instruction is about, or None. A word for "nothing" counts as nothing, with a warning."""
    value = row[key]
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and clean_text(value).casefold() in NO_INPUT:
        message = f"`{key}` is {quoted(clean_text(value))}; it was read as empty"
        findings.append(row_finding("no_input_marker", place, message, "leave it empty", "warning"))
        return None
    return text_of(row, key, key, place, findings)
