"""How commands speak: text for people, JSON for programs, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from finetune_pipeline.findings import FindingsError
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import Task, find_tasks, load_task

DONE, ERROR, REFUSED = 0, 1, 2

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")


def say(text: str = "") -> None:
    """A line for people, on standard output."""
    click.echo(text)


def problem(text: str) -> None:
    """A line about what went wrong, on standard error."""
    click.echo(text, err=True)


def emit(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def task_folder(name: str) -> Path:
    """The folder of a task named on the command line, or given as a path to a folder with a task.yaml.

    Raises ClickException naming the tasks there are.
    """
    if (Path(name) / "task.yaml").is_file():
        return Path(name).resolve()
    root = read_settings().data_root
    known = find_tasks(root)
    if name in known:
        return known[name]
    there = ", ".join(known) or "none"
    raise click.ClickException(
        f"there is no task {name!r} in {root} (tasks: {there}); make {root / name}/task.yaml, "
        "`finetune schema` says what goes into it"
    )


def get_task(name: str) -> Task:
    """The loaded task. Raises ClickException with every problem of its spec."""
    folder = task_folder(name)
    try:
        return load_task(folder)
    except FindingsError as error:
        raise click.ClickException(f"{folder / 'task.yaml'} cannot be used:\n{error}") from error
