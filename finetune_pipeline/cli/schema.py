"""``finetune schema``: prints the keys of task.yaml, or the schema of evaluation.json."""

import json
from typing import Any

import click

from finetune_pipeline.cli.output import DONE, as_json, emit, say, wants_json
from finetune_pipeline.spec.loading import json_schema


@click.command()
@click.option("--evaluation", is_flag=True, help="Print the JSON schema of evaluation.json.")
@as_json
def schema(evaluation: bool) -> int:
    """Print the keys of task.yaml: as a table, or with --json as a JSON schema for editors."""
    if evaluation:
        from finetune_pipeline.evaluation.result import EvaluationResult

        emit(EvaluationResult.model_json_schema())
        return DONE
    spec_schema = json_schema()
    if wants_json():
        emit(spec_schema)
        return DONE

    def section(node: dict[str, Any], indent: str = "") -> None:
        for name, field in node["properties"].items():
            options = [field, *field.get("anyOf", ())]
            if reference := next((o["$ref"].rpartition("/")[2] for o in options if "$ref" in o), ""):
                say(f"{indent}{name}:" if "$ref" in field else f"{indent}{name}:  (optional) {field['description']}")
                section(spec_schema["$defs"][reference], indent + "  ")
                continue
            types = [field] if "type" in field else field.get("anyOf", field.get("oneOf", []))
            kinds = field.get("enum") or [o.get("type") or o["$ref"].rpartition("/")[2] for o in types]
            required = name in node.get("required", [])
            default = (
                "required" if required else f"default {json.dumps(field['default'])}" if "default" in field else ""
            )
            say(f"{indent}{name}: {' | '.join(kinds)}  ({default}) {field.get('description', '')}".rstrip())

    section(spec_schema)
    for name in ("LabelsOutput", "TextOutput", "JsonOutput"):
        say(f"\noutput, as {name}:")
        section(spec_schema["$defs"][name], "  ")
    return DONE
