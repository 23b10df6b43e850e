"""The JSON schema of answers: read from the task folder where the spec names a file, and looked up by path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import JsonOutput

KEY = "task.yaml: output.json_schema"


def _bad(message: str, fix: str) -> Finding:
    return Finding("spec.json_schema", "error", KEY, message, fix)


def with_schema(spec: TaskSpec, folder: Path) -> tuple[TaskSpec, list[Finding]]:
    """The spec with the schema itself in place of the name of its file: what is in it decides, not what it is called."""
    output = spec.output
    if not isinstance(output, JsonOutput) or not isinstance(output.json_schema, str):
        return spec, []
    named = output.json_schema
    if Path(named).is_absolute() or ".." in Path(named).parts:
        return spec, [_bad(f"{named!r} points outside the task folder", "copy the file into the task folder")]
    try:
        schema = json.loads((folder / named).read_text("utf-8"))
    except OSError as error:
        return spec, [_bad(f"{named!r} cannot be read: {error.strerror}", "put the file into the task folder")]
    except ValueError as error:
        return spec, [_bad(f"{named!r} is not JSON: {error}", "correct the file")]
    if not isinstance(schema, dict):
        return spec, [_bad(f"{named!r} holds no JSON object", 'write a schema such as {"type": "object", …}')]
    return spec.model_copy(update={"output": output.model_copy(update={"json_schema": schema})}), []


def schema_at(schema: Any, path: str) -> dict[str, Any] | None:
    """The part of a schema that describes the field at a dotted path of properties; None where it names no such field."""
    part = schema
    for name in path.split("."):
        part = part.get("properties", {}).get(name) if isinstance(part, dict) else None
    return part if isinstance(part, dict) else None


def allowed_types(part: dict[str, Any] | None) -> set[str]:
    """JSON types the schema of one field names; empty where it names none."""
    told = (part or {}).get("type", [])
    return {told} if isinstance(told, str) else set(told)
