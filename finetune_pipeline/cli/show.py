"""``finetune show TASK``: shows a task's spec with all defaults, and its artifacts."""

import json
from collections.abc import Iterator
from typing import Any

import click
import msgspec
import yaml

from finetune_pipeline.cli.list_ import print_tasks
from finetune_pipeline.cli.output import DONE, as_json, emit, get_task, tell
from finetune_pipeline.cli.project import Project, champion_words, edited_copies, recall_lines
from finetune_pipeline.models.chat_templates import template_origin
from finetune_pipeline.report.stored import Report
from finetune_pipeline.spec.loading import json_schema

TASK_FILE, REPORT_FILE = "task.yaml", "report.json"


@click.command()
@click.argument("task", required=False)
@click.option(
    "--schema",
    metavar="WHAT",
    help="Print the keys of task.yaml, with --json as a JSON schema for editors; or the JSON schema of report.json, or of what a "
    "COMMAND such as `run` prints with --json.",
)
@as_json
def show(task: str | None, schema: str | None) -> int:
    """Print the resolved spec of TASK and the state of every step. Without TASK: as `finetune list`."""
    if schema and task:
        raise click.UsageError("--schema is the same for every task: omit TASK")
    if schema and schema not in (TASK_FILE, REPORT_FILE):
        from finetune_pipeline.cli.documents import DOCUMENTS, document_schema

        if schema not in DOCUMENTS:
            choices = ", ".join([TASK_FILE, REPORT_FILE, *DOCUMENTS])
            raise click.BadParameter(
                f"there is no schema of {schema!r}; choose one of {choices}", param_hint="--schema"
            )
        emit(document_schema(schema))
        return DONE
    if schema == REPORT_FILE:
        emit(Report.model_json_schema(mode="serialization"))
        return DONE
    if schema:
        spec_schema = json_schema()
        tell(spec_schema, *_key_lines(spec_schema))
        return DONE
    if task is None:
        return print_tasks()
    loaded = get_task(task)
    project = Project(loaded)
    steps = {
        name: {
            "version": project.versions[name],
            "made": artifact is not None,
            "folder": str(artifact.folder) if artifact else None,
        }
        for name, artifact in project.artifacts.items()
    }
    spec = loaded.spec.model_dump(mode="json")
    template = template_origin(loaded.spec.chat_template, loaded.folder)
    edited = edited_copies(project)
    facts = {
        "spec": spec,
        "folder": str(loaded.folder),
        "chat_template": template,
        "steps": steps,
        "edited_copies": msgspec.to_builtins(edited),
    }
    tell(
        {**facts, "champion": project.serving, "champion_forgotten": project.champion_forgotten},
        yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, width=120),
        *(f"{'made   ' if s['made'] else 'missing'}  {s['version']}  {name}" for name, s in steps.items()),
        f"\nchat template: {template}",
        f"champion: {champion_words(project)}",
        *recall_lines(edited),
    )
    return DONE


def _key_lines(schema: dict[str, Any]) -> Iterator[str]:
    """Every key of task.yaml with its type, default and meaning, and those of each kind of output."""

    def section(node: dict[str, Any], indentation: str = "") -> Iterator[str]:
        for name, field in node["properties"].items():
            options = [field, *field.get("anyOf", ())]
            if reference := next((o["$ref"].rpartition("/")[2] for o in options if "$ref" in o), ""):
                optional = "" if "$ref" in field else f"  (optional) {field['description']}"
                yield f"{indentation}{name}:{optional}"
                yield from section(schema["$defs"][reference], indentation + "  ")
                continue
            types = [field] if "type" in field else field.get("anyOf", field.get("oneOf", []))
            kinds = field.get("enum") or [o.get("type") or o["$ref"].rpartition("/")[2] for o in types]
            default = f"default {json.dumps(field['default'])}" if "default" in field else ""
            if name in node.get("required", []):
                default = "required"
            line = f"{indentation}{name}: {' | '.join(kinds)}  ({default}) {field.get('description', '')}"
            yield line.rstrip()

    yield from section(schema)
    for name in ("LabelsOutput", "TextOutput", "JsonOutput"):
        yield f"\noutput, as {name}:"
        yield from section(schema["$defs"][name], "  ")
