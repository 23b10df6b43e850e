"""What commands print with --json keeps to the published schemas; the fixture `finetune` validates every other call, too."""

import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from finetune_pipeline.cli.documents import DOCUMENTS, document_schema
from finetune_pipeline.cli.main import COMMANDS, cli
from finetune_pipeline_tests.unit.cli.conftest import validator
from finetune_pipeline_tests.unit.cli.test_try import answers


def test_every_command_with_json_has_a_schema() -> None:
    context = click.Context(cli)
    commands = {name: cli.get_command(context, name) for name in COMMANDS}
    with_json = {name for name, command in commands.items() if command and "json" in [p.name for p in command.params]}
    assert with_json == DOCUMENTS.keys()
    assert {document_schema(command)["title"] for command in DOCUMENTS} == {
        f"finetune {name} --json" for name in DOCUMENTS
    }


def test_real_documents_have_no_key_that_is_not_published(finetune: Any, tmp_path: Path) -> None:
    lines = [f"{text},{label}" for text, label in answers("easy", 120, random.Random(5))]
    file = tmp_path / "tickets.csv"
    file.write_text("\n".join(["text,label", *lines]) + "\n", "utf-8")
    calls = [("init", file, "--yes"), ("check", "tickets"), ("try", file), ("list",), ("show", "tickets"), ("docs",)]
    for command, *arguments in calls:
        document = finetune(command, *arguments, "--json").json
        known = {field.name for form in DOCUMENTS[command] for field in fields(form)}
        assert document.keys() <= known, command
    failed = finetune("check", "no_such_task", "--json").json
    assert failed["exit_code"] == 1 and "there is no task" in failed["error"]


@pytest.mark.parametrize(
    ("command", "document"),
    [
        ("check", {"task": "tickets", "usable": "yes", "spec_findings": []}),
        ("run", {"task": "tickets", "passed": True}),
        ("list", {"tasks": {"tickets": {"state": "new", "score": "97%"}}}),
        ("advise", {"task": "tickets", "decision": "simple", "sentence": "", "reasons": []}),
    ],
)
def test_a_wrong_document_is_refused(command: str, document: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator(command).validate(document)


def test_show_prints_the_schema_and_names_the_choices(finetune: Any) -> None:
    schema = finetune("show", "--schema", "run", "--json").json
    assert schema["title"] == "finetune run --json" and {"$ref": "#/$defs/RunDocument"} in schema["anyOf"]
    wrong = finetune("show", "--schema", "runs")
    assert wrong.returncode == 1 and "task.yaml, report.json, init, try, check" in wrong.stderr
