"""``finetune schema``: prints the keys of task.yaml, or the schema of evaluation.json."""

from __future__ import annotations

from typing import Any

import click

from finetune_pipeline.cli.output import DONE, as_json, emit, say
from finetune_pipeline.spec.loading import json_schema


@click.command()
@click.option("--evaluation", is_flag=True, help="Print the JSON schema of evaluation.json.")
@as_json
def schema(evaluation: bool, as_json: bool) -> int:
    """Print the keys of task.yaml as a table, or with --json as a JSON schema for editors."""
    if evaluation:
        from finetune_pipeline.evaluation.result import EvaluationResult

        emit(EvaluationResult.model_json_schema())
        return DONE
    spec_schema = json_schema()
    if as_json:
        emit(spec_schema)
        return DONE

    def section(properties: dict[str, Any], required: list[str], indent: str) -> None:
        for name, field in properties.items():
            kind = field.get("type") or " | ".join(
                str(o.get("type", o.get("$ref", "").rpartition("/")[2]))
                for o in field.get("anyOf", field.get("oneOf", []))
            )
            reference = field.get("$ref", "").rpartition("/")[2]
            default = "required" if name in required else f"default {field['default']!r}" if "default" in field else ""
            if "enum" in field:
                kind = " | ".join(field["enum"])
            say(
                f"{indent}{name}: {reference or kind}  ({default}) {field.get('description', '')}".rstrip()
                if not reference
                else f"{indent}{name}:"
            )
            if reference:
                inner = spec_schema["$defs"][reference]
                section(inner["properties"], inner.get("required", []), indent + "  ")

    section(spec_schema["properties"], spec_schema["required"], "")
    for name in ("LabelsOutput", "TextOutput", "JsonOutput"):
        say(f"\noutput, as {name}:")
        inner = spec_schema["$defs"][name]
        section(inner["properties"], inner.get("required", []), "  ")
    return DONE
