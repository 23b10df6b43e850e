"""What all commands share: text for people, JSON for programs, exit codes, errors from outside, and the environment."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
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


FULL = (errno.ENOSPC, errno.EDQUOT)
_SQLITE_FULL = "database or disk is full"


def words_of(error: BaseException) -> str | None:
    """What is wrong outside and what to do; None: the error is the program's own, and its traceback is wanted."""
    from finetune_pipeline.tracking.mlflow_store import TrackingError

    for link in _chain(error):
        if isinstance(link, TrackingError):
            return str(link)
        if (isinstance(link, OSError) and link.errno in FULL) or _SQLITE_FULL in str(link):
            from finetune_pipeline.settings import read_settings

            place = getattr(link, "filename", None) or read_settings().home
            return (
                f"the disk is full: {place} could not be written\n"
                "fix: make space, or move FINETUNE_HOME to a larger disk, and run it again; what was made is kept"
            )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and the ones it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def environment() -> dict[str, str]:
    """The process's environment with the pipeline's own variables filled in; what the user set stays."""
    settings = read_settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    ours = {
        "FINETUNE_PROJECT": str(settings.project),
        "FINETUNE_HOME": str(settings.home),
        "FINETUNE_DATA": str(settings.data_root),
        "DAGSTER_HOME": str(settings.project),
        # two OpenMP threads on busy cores spin at every barrier: up to six times slower without this
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        # the default pool loses traces in silence; job workers cost 2 GB of memory
        "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    return {**os.environ, **{k: v for k, v in ours.items() if not os.environ.get(k)}}


def apply_environment() -> None:
    """Set these variables in this process."""
    os.environ.update(environment())
