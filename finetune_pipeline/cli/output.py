"""Output of all commands: text and JSON, exit codes and error messages; also their task argument and environment."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TextIO

import click

from finetune_pipeline.escaping import printable
from finetune_pipeline.faults import OutsideError, outside_words
from finetune_pipeline.findings import FindingsError, shortened
from finetune_pipeline.settings import read_settings

if TYPE_CHECKING:
    from finetune_pipeline.spec import Task

DONE, ERROR, REFUSED = 0, 1, 2
NOTICE_SECONDS, AGAIN_SECONDS = 0.5, 8.0
"""A command without output says on a terminal that it is starting after the first time, then that it is working at the second
interval."""

NO_TASK = "`finetune init FILE…` makes a task from raw files, and `finetune show --schema task.yaml` lists its keys"
as_json = click.option("--json", is_flag=True, expose_value=False, help="Print one JSON object instead of text.")
"""Adds `--json` to a command. :func:`tell` and :func:`say` know whether it was given."""

_first_line = Event()
"""Set when the command has printed something."""


class JsonAnswer:
    """The single JSON document printed with ``--json``, and the exit code."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.emitted = False
        self.problems: list[str] = []
        self.code = ERROR


_answers: list[JsonAnswer] = []
"""The running command's document, if ``--json`` was given."""


def usable_streams() -> None:
    """Make standard streams usable: open closed ones on the null device, and escape characters that output cannot encode.

    The next opened file would take the place of a closed stream.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def wants_json() -> bool:
    """Whether ``--json`` was given."""
    return bool(_answers)


def say(*lines: str) -> None:
    """Print lines of text on standard output; nothing with ``--json``."""
    _first_line.set()
    if wants_json():
        return
    with _standard_output():
        for line in lines:
            click.echo(printable(line))


def problem(*lines: str) -> None:
    """Print problems on standard error; with ``--json`` they also go into the document if it has no other content."""
    _first_line.set()
    lines = tuple(shortened(line) for text in lines for line in text.split("\n"))
    for answer in _answers:
        answer.problems += lines
    for line in lines:
        click.echo(printable(line), err=True)


def emit(value: Any) -> None:
    """Print one JSON document on standard output."""
    text = printable(json.dumps(value, indent=1, ensure_ascii=False, default=str))
    for answer in _answers:
        answer.emitted = True
    with _standard_output():
        click.echo(text, file=_answers[-1].out if _answers else None)


def tell(facts: Any, *lines: str) -> None:
    """Print the result of a command: one JSON document with ``--json``, else lines of text."""
    emit(facts) if wants_json() else say(*lines)


@contextlib.contextmanager
def _standard_output() -> Iterator[None]:
    """Convert errors of standard output, which name no file, to OutsideError."""
    try:
        yield
    except BrokenPipeError:
        raise  # no fault: the reader of the pipe has read enough
    except OSError as error:
        raise OutsideError(
            f"standard output cannot be written: {error.strerror}\nfix: redirect it to another place"
        ) from error


@contextlib.contextmanager
def json_only(enabled: bool) -> Iterator[JsonAnswer]:
    """Reserve standard output for one JSON document: other output goes to standard error.

    If a command ends without a document, one is printed with the lines of :func:`problem` as `error`.
    """
    if not enabled:
        yield JsonAnswer(sys.stdout)
        return
    sys.stdout.flush()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    os.dup2(2, 1)
    answer = JsonAnswer(out)
    _answers.append(answer)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield answer
    except BaseException as error:
        problem(f"{type(error).__name__}: {error}")
        raise
    finally:
        os.dup2(out.fileno(), 1)
        with contextlib.suppress(OSError, OutsideError), out:  # without a reader: standard error has the message
            if not answer.emitted:
                emit({"error": "\n".join(answer.problems) or None, "exit_code": answer.code})
        _answers.remove(answer)


@contextlib.contextmanager
def noticed() -> Iterator[None]:
    """Print on a terminal that the command is working, until it prints its first line."""
    if sys.stderr.isatty():
        command, began = " ".join(["finetune", *sys.argv[1:2]]), time.monotonic()

        def notice() -> None:
            if not _first_line.wait(NOTICE_SECONDS):
                click.echo(f"{command}: starting", err=True)
                while not _first_line.wait(AGAIN_SECONDS):
                    click.echo(f"{command}: working, {time.monotonic() - began:.0f} s", err=True)

        Thread(target=notice, name="notice", daemon=True).start()
    yield
    _first_line.set()


def task_folder(name: str) -> Path:
    """Return the folder of a task, given by name or by path.

    Raises ClickException, which lists the existing tasks, if there is none.
    """
    if name and (Path(name) / "task.yaml").is_file():
        return Path(name).resolve()
    from finetune_pipeline.spec import find_tasks

    settings = read_settings()
    root = settings.data_root
    if settings.project != Path.cwd() and settings.home.is_relative_to(settings.project):
        click.echo(f"project: {printable(str(settings.project))}", err=True)
    tasks = find_tasks(root)
    if name in tasks:
        return tasks[name]
    raise click.ClickException(
        f"there is no task {name!r} in {root} (tasks: {', '.join(tasks) or 'none'})\nfix: correct the name; {NO_TASK}"
    )


def get_task(name: str) -> Task:
    """Return the loaded task. Raises ClickException with every problem of its spec."""
    from finetune_pipeline.spec import load_task

    folder = task_folder(name)
    try:
        return load_task(folder)
    except FindingsError as error:
        raise click.ClickException(f"{folder / 'task.yaml'} cannot be used:\n{error}") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the folder of a file that the block writes; if writing fails, remove the partial file and name it in the error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.filename is None:  # as when the disk is full
            error.filename = str(path)
            path.unlink(missing_ok=True)
        raise


def failure(error: BaseException) -> str | None:
    """Return the message for wrong input, an outside fault or Ctrl-C; None for a bug, which should show its traceback."""
    interrupts = ("Abort", "KeyboardInterrupt", "DagsterExecutionInterruptedError")  # importing Dagster takes seconds
    if type(error).__name__ in interrupts:
        stopped = "stopped; finished steps are kept, and the same command continues from there"
        interrupts_raised = (error, error.__cause__)  # click raises an Abort from the interrupt
        return "\n".join([stopped, *(note for e in interrupts_raised for note in getattr(e, "__notes__", []))])
    if isinstance(error, click.ClickException):
        usage = error.ctx.get_usage() if isinstance(error, click.UsageError) and error.ctx else ""
        return f"{error.format_message()}\n{usage}".rstrip()
    if isinstance(error, FindingsError | OutsideError):
        return str(error)  # not read_settings() as below: the error may be about a setting
    return outside_words(error, read_settings().home) if isinstance(error, Exception) else None


def apply_environment() -> None:
    """Set environment variables for this process and those it starts: paths always, others only if they are not set."""
    from finetune_pipeline.orchestration.dagster_internals import dagster_home
    from finetune_pipeline.tracking.mlflow_store import ENVIRONMENT

    settings = read_settings()
    defaults = {
        # two OpenMP threads on busy cores spin at every barrier: up to six times slower without this
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONSAFEPATH": "1",  # the project may have an evaluate.py or a datasets.py
        "DAGSTER_DISABLE_TELEMETRY": "1",
        **ENVIRONMENT,
    }
    places = {
        "FINETUNE_HOME": str(settings.home),
        "FINETUNE_DATA": str(settings.data_root),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "DAGSTER_HOME": str(dagster_home()),
    }
    os.environ.update({name: value for name, value in defaults.items() if not os.environ.get(name)} | places)
