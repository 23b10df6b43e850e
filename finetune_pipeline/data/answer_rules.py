"""The form of an answer, as the spec declares it. One judgement for gold answers and for what models say."""

from __future__ import annotations

import re
from typing import Any

from finetune_pipeline.data.json_values import NOT_JSON, read_strict, schema_problems
from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput, LabelsOutput, TextOutput, WrittenOutput

LAST_FIX = "write the answer in the declared form, or change `output` in task.yaml"


def final_answer(text: str, pattern: str) -> str | None:
    """The group of the last match of `pattern` in a text, blanks stripped; None where there is no match."""
    found = list(re.finditer(pattern, text))
    return (found[-1].group(1) or "").strip() if found else None


def form_problems(text: str, output: AnyOutput) -> list[tuple[str, str]]:
    """(rule, message) of everything that keeps an answer from being in the declared form; empty when it is.

    Rules: not_a_label, empty, not_json, schema, pattern, too_long, required, forbidden, no_final_answer. Surrounding
    blanks are ignored.
    """
    text = text.strip()
    if isinstance(output, LabelsOutput):
        return [] if text in output.labels else [("not_a_label", f"{quoted(text)} is not one of the labels")]
    if not text:
        return [("empty", "the answer is empty")]
    return [*_content_problems(text, output), *_written_problems(text, output)]


def _content_problems(text: str, output: WrittenOutput) -> list[tuple[str, str]]:
    if isinstance(output, JsonOutput):
        value, why = read_strict(text)
        if value is NOT_JSON:
            return [("not_json", f"the answer is not JSON: {why}")]
        return [("schema", f"the answer breaks the schema at {p}") for p in schema_problems(value, schema_of(output))]
    if isinstance(output, TextOutput) and output.extract and final_answer(text, output.extract) is None:
        return [("no_final_answer", f"no final answer is marked as output.extract asks ({output.extract})")]
    return []


def _written_problems(text: str, output: WrittenOutput) -> list[tuple[str, str]]:
    found = []
    if output.pattern is not None and not re.fullmatch(output.pattern, text, re.S):
        found.append(("pattern", f"the answer does not match output.pattern ({output.pattern})"))
    if output.max_chars is not None and len(text) > output.max_chars:
        found.append(("too_long", f"the answer has {len(text)} characters, {output.max_chars} are allowed"))
    found += [("required", f"the answer lacks {quoted(part)}") for part in output.required if part not in text]
    found += [("forbidden", f"the answer holds {quoted(part)}") for part in output.forbidden if part in text]
    return found


def schema_of(output: JsonOutput) -> dict[str, Any]:
    """The schema itself. Raises ValueError where the spec still names a file: load_task puts its content in place."""
    if isinstance(output.json_schema, str):
        raise ValueError(f"the schema file {output.json_schema!r} was not read; load the task with load_task")
    return output.json_schema


def has_form(output: AnyOutput) -> bool:
    """Whether more is asked of a freely written answer than to be one."""
    if isinstance(output, JsonOutput):
        return True
    asked = ("pattern", "max_chars", "required", "forbidden", "extract")
    return isinstance(output, WrittenOutput) and any(getattr(output, name, None) for name in asked)
