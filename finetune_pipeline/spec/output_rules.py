"""Cross-field rules about the output and what it is judged by. Found by name, as in :mod:`finetune_pipeline.spec.rules`."""

from __future__ import annotations

import re
from pathlib import Path

from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.answer_schema import KEY, allowed_types, schema_at
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import METRICS, JsonOutput, TextOutput, WrittenOutput


def _finding(rule: str, key: str, message: str, fix: str) -> Finding:
    return Finding(f"spec.{rule}", "error", f"task.yaml: {key}", message, fix)


def check_metric(spec: TaskSpec, folder: Path) -> list[Finding]:
    """Each kind of output has metrics of its own. Where no code has registered any, nothing here could judge by one."""
    allowed = sorted(name for name, kinds in METRICS.items() if spec.output.kind in kinds)
    named = [("gates.metric", spec.gates.metric), *(("gates.more_metrics", name) for name in spec.gates.more_metrics)]
    return [
        _finding(
            "metric",
            key,
            f"{name} does not fit output of kind {spec.output.kind}" if name in METRICS else f"unknown metric {name!r}",
            f"use one of {', '.join(allowed)}",
        )
        for key, name in named
        if METRICS and name not in (None, *allowed)
    ]


def check_patterns(spec: TaskSpec, folder: Path) -> list[Finding]:
    """Patterns must compile; the one that finds the final answer has exactly one group, which is that answer."""
    output, found = spec.output, []
    for name in ("pattern", "extract"):
        pattern = getattr(output, name, None)
        if pattern is None:
            continue
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            found.append(
                _finding("patterns", f"output.{name}", f"{pattern!r} is no regular expression: {error}", "correct it")
            )
            continue
        if name == "extract" and groups != 1:
            found.append(
                _finding(
                    "patterns",
                    "output.extract",
                    f"{pattern!r} has {groups} groups, and exactly one must mark the final answer",
                    "put ( ) around the answer, and (?: ) around everything else",
                )
            )
    return found


def check_answer_strings(spec: TaskSpec, folder: Path) -> list[Finding]:
    """No string can be required and forbidden at once; an empty one says nothing."""
    output = spec.output
    if not isinstance(output, WrittenOutput):
        return []
    found = []
    for required in output.required:
        clash = next((f for f in output.forbidden if f and f in required), None)
        if clash is not None:
            found.append(
                _finding(
                    "answer_strings",
                    "output.required",
                    f"{required!r} is required, and {clash!r} in it is forbidden: no answer could be in form",
                    "remove one of them",
                )
            )
    if "" in [*output.required, *output.forbidden]:
        found.append(_finding("answer_strings", "output.required / forbidden", "a string is empty", "remove it"))
    return found


def check_json_schema(spec: TaskSpec, folder: Path) -> list[Finding]:
    """The schema must be a valid one, refer to nothing outside itself, and know the fields that are said to be lists."""
    output = spec.output
    if not isinstance(output, JsonOutput) or not isinstance(output.json_schema, dict):
        return []
    from jsonschema import Draft202012Validator  # a tenth of a second that other tasks need not wait for
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(output.json_schema)
    except SchemaError as error:
        place = ".".join(map(str, error.absolute_path)) or "the top"
        return [
            Finding("spec.json_schema", "error", KEY, f"no valid schema: {error.message} (at {place})", "correct it")
        ]
    found = [
        Finding(
            "spec.json_schema", "error", KEY, f"{ref!r} refers to another document", "put the definition into $defs"
        )
        for ref in _references(output.json_schema)
        if not ref.startswith("#")
    ]
    for path in output.unordered:
        part = schema_at(output.json_schema, path)
        if part is None or "array" not in allowed_types(part):
            found.append(
                _finding(
                    "unordered",
                    "output.unordered",
                    f"{path!r} is not a list in the schema",
                    "name list fields by their dotted path",
                )
            )
    return found


def check_final_answer(spec: TaskSpec, folder: Path) -> list[Finding]:
    """A base model cannot end its answer in a form it was never told."""
    output = spec.output
    if not isinstance(output, TextOutput) or not output.extract:
        return []
    literal = max(re.findall(r"[^\\\[\](){}.*+?^$|]{2,}", output.extract), key=len, default="").strip()
    if not literal or literal in spec.system_prompt:
        return []
    return [
        Finding(
            "spec.final_answer",
            "warning",
            "task.yaml: system_prompt",
            f"the system prompt does not show how the final answer is marked ({literal!r})",
            "say how to end the answer, or the prompted baseline is not a fair one",
        )
    ]


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [ref] if isinstance(ref := value.get("$ref"), str) else []
        return own + [r for part in value.values() for r in _references(part)]
    return [r for part in value for r in _references(part)] if isinstance(value, list) else []
