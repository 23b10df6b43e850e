"""Faults from outside are told in a sentence, with --json as JSON; a fault of the program keeps its traceback."""

import contextlib
import errno
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import dagster as dg
import numpy as np
import psutil
import pytest
import yaml
from safetensors.numpy import save_file

from finetune_pipeline.cli import main as entry
from finetune_pipeline.cli import output
from finetune_pipeline.cli.output import failure, say
from finetune_pipeline.cli.run import interruption, refusals_and_failures
from finetune_pipeline.data.draft.files import given_files, place_files
from finetune_pipeline.orchestration.materialize import NOTES
from finetune_pipeline.settings import read_settings
from finetune_pipeline_tests.shared import copy_database
from finetune_pipeline_tests.unit.cli.test_commands import SPEC

ROOT = Path(__file__).resolve().parents[3]


def copy_to_a_full_disk(tmp_path: Path) -> None:
    raise OSError(errno.ENOSPC, "as shutil tells it", "rows.jsonl", None, "copy.jsonl")


def database_on_a_full_disk(tmp_path: Path) -> None:
    try:
        with sqlite3.connect(tmp_path / "history.db") as database:
            database.execute("PRAGMA max_page_count = 1")
            database.execute("CREATE TABLE events (told TEXT)")
    except sqlite3.Error as error:
        raise RuntimeError("could not store the event") from error


def too_large_weights(tmp_path: Path) -> None:
    with _files_of_at_most(100):
        save_file({"w": np.zeros(99)}, tmp_path / "model.safetensors")


def too_large_a_file(tmp_path: Path) -> None:
    with _files_of_at_most(100):
        (tmp_path / "rows.jsonl").write_bytes(b"x" * 200)


def test_a_file_on_a_full_disk_is_named_and_no_part_of_it_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "pages" / "page.html"

    def write(size: int) -> None:
        with _files_of_at_most(100), output.writing(page):
            page.write_text("x" * size)

    write(100)
    assert page.read_text() == "x" * 100
    _ends(monkeypatch, lambda: write(1000))
    assert capsys.readouterr().err.startswith(f"{page} could not be written: it reached the limit of a file's size")
    assert not page.exists()


@contextlib.contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_no_part_of_a_raw_file_is_left_where_it_does_not_fit(tmp_path: Path) -> None:
    """It kept the last of the space, under a hidden name."""
    (tmp_path / "given.csv").write_bytes(b"x" * 200)
    with _files_of_at_most(100), pytest.raises(OSError):
        place_files(given_files([tmp_path / "given.csv"]), tmp_path / "task", {}, [])
    assert [*(tmp_path / "task").rglob("*")] == [tmp_path / "task" / "raw"]


def links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "a").read_bytes()


def locked_database(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with sqlite3.connect(path) as holder, sqlite3.connect(path, timeout=0) as second:
        holder.execute("BEGIN EXCLUSIVE")
        second.execute("CREATE TABLE events (told TEXT)")


def deleted_database(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "history.db").execute("SELECT * FROM events")


def damaged_database(tmp_path: Path) -> None:
    (tmp_path / "history.db").write_bytes(b"no database" * 1000)
    sqlite3.connect(tmp_path / "history.db").execute("SELECT * FROM events")


def mlflow_at(address: str) -> Callable[[Path], object]:
    def ask(tmp_path: Path) -> None:
        from mlflow.tracking import MlflowClient

        MlflowClient(address).search_registered_models()

    return ask


FAULTS: dict[Callable[[Path], object], str] = {
    lambda _: Path("/dev/full").write_text("x"): "the disk is full: ",
    copy_to_a_full_disk: "the disk is full: copy.jsonl could not be written\nfix: make space, or set FINETUNE_HOME, FINETUNE_DATA",
    database_on_a_full_disk: "the disk is full: ",
    too_large_weights: "could not be written: it reached the limit of a file's size",
    too_large_a_file: "could not be written: it reached the limit of a file's size",
    lambda _: Path("k" * 100_000).read_bytes(): "k … (98,0",
    lambda home: (home.rmdir(), home.stat()): "does not exist and cannot be created",
    links_in_a_circle: "its symbolic links lead in a circle",
    locked_database: "is locked by another process",
    deleted_database: "was deleted",
    damaged_database: "history.db is damaged",
    mlflow_at("htp://127.0.0.1"): "unsupported URI 'htp://127.0.0.1'",
    lambda _: __import__("psycopg_of_nobody"): "the Python package psycopg_of_nobody is not installed",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_from_outside_is_a_sentence_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: Callable[[Path], None]
) -> None:
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path))
    _ends(monkeypatch, lambda: fault(tmp_path))
    message = capsys.readouterr().err
    assert FAULTS[fault] in message and "\nfix: " in message and "Traceback" not in message


def test_a_wrong_setting_is_a_sentence_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FINETUNE_DEVICES", "gpu")
    _ends(monkeypatch, read_settings)
    assert capsys.readouterr().err.startswith("FINETUNE_DEVICES: 'gpu' is no device; write cpu")


def test_a_fault_of_the_program_keeps_its_traceback_and_is_json_where_json_was_asked(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert failure(PermissionError(13, "denied")) is None, "no file is named: nobody could act on it"

    @click.command()
    @click.option("--json", is_flag=True)
    def command(json: bool) -> None:
        say("a library's chatter")
        raise KeyError("adapter")

    monkeypatch.setattr(entry, "cli", command)
    monkeypatch.setattr(sys, "argv", ["finetune", "--json"])
    with pytest.raises(KeyError):
        entry.main()
    assert json.loads(capfd.readouterr().out) == {"error": "KeyError: 'adapter'", "exit_code": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["report", "nope"], "there is no task 'nope'"), (["report", "ticket_triage"], "has not been evaluated yet"),
        (["check"], "Missing argument 'TASK'"), (["show", "ticket_triage", "--nope"], "No such option"),
        (["nope"], "No such command 'nope'"),
        (["automate", "ticket_triage", "--on", "--off"], "give only one of --on and --off"),
        (["run", ""], "there is no task ''"), (["init", ""], "write . for the working folder")],
)  # fmt: skip
def test_json_is_json_whatever_happens(finetune: Any, arguments: list[str], message: str) -> None:
    result = finetune(*arguments, "--json", data=ROOT / "data")
    assert message in result.json["error"] and (result.returncode, result.json["exit_code"]) == (1, 1)
    assert message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("command", "stdout", "stderr"),
    [("show --schema task.yaml --json <&- >&-", "", ""), ("init nowhere.csv <&- >&-", "", "the file does not exist"),
        ("show --schema task.yaml | :", "", ""), ("show --schema task.yaml --json | :", "", ""), ("init --help", "\\u2026", ""),
        ("show --schema task.yaml >/dev/full", "", "standard output cannot be written: No space left"),
        ("show --schema task.yaml --json >/dev/full", "", "standard output cannot be written: No space left")],
)  # fmt: skip
def test_closed_streams_and_a_terminal_without_a_sign_for_it_change_nothing(
    tmp_path: Path, command: str, stdout: str, stderr: str
) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "latin-1", "FINETUNE_HOME": str(tmp_path)}
    shell = ["sh", "-c", f"{sys.executable} -m finetune_pipeline.cli.main {command}"]
    result = subprocess.run(shell, env=env, text=True, capture_output=True, check=False)
    assert (stdout in result.stdout) and (stderr in result.stderr if stderr else not result.stderr)
    assert "Traceback" not in result.stderr


def test_what_a_command_imports_is_what_it_needs(tmp_path: Path) -> None:
    """A second more of imports is a second before the first line. One process for all, those with the fewest imports first."""
    (tmp_path / "data/demo/raw").mkdir(parents=True)
    (tmp_path / "data/demo/raw/a.jsonl").write_text('{"text": "is ice cold", "label": "yes"}\n')
    training = {"method": "prefix", "gradient_checkpointing": True}
    (tmp_path / "data/demo/task.yaml").write_text(yaml.safe_dump({**SPEC, "training": training}))
    code = """import os, sys
from finetune_pipeline.cli.main import cli, main
for arguments, unneeded in {
    ("--help",): {"pydantic", "yaml", "numpy"},
    ("try", "--help"): {"pydantic", "numpy"},
    ("check", "--help"): {"dagster", "scipy.stats", "sklearn", "mlflow"},
    ("show", "ticket_triage"): {"scipy.stats", "sklearn", "mlflow", "alembic", "torch"},
}.items():
    assert not cli.main(arguments, prog_name="finetune", standalone_mode=False)
    assert not unneeded & set(sys.modules), (arguments, unneeded & set(sys.modules))
os.environ["FINETUNE_DATA"] = sys.argv[1]
for command in ("check", "run"):
    sys.argv[1:] = [command, "demo"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 1
    assert not {"torch", "transformers", "peft"} & set(sys.modules), command
# a half loaded one, as `import mlflow` begins with, fails every query of other threads
assert "sqlalchemy.orm" in sys.modules
"""
    env, command = {**os.environ, "FINETUNE_HOME": str(tmp_path)}, [sys.executable, "-c", code, str(tmp_path / "data")]
    result = subprocess.run(command, env=env, cwd=ROOT, text=True, capture_output=True, check=False)
    assert result.returncode == 0 and "ticket_triage" in result.stdout, result.stderr
    assert all("[spec.gradient_checkpointing]" in stream for stream in (result.stdout, result.stderr))
    assert not (tmp_path / "mlflow" / "mlflow.db").exists(), "who only looks makes no database"
    assert not (tmp_path / "artifacts" / "shared").exists(), "nothing is made to refuse"


def test_a_command_without_a_line_says_on_a_terminal_that_it_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "NOTICE_SECONDS", 0.0)
    monkeypatch.setattr(output, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(output, "_first_line", threading.Event())
    monkeypatch.setattr(sys, "argv", ["finetune", "check", "tickets"])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    said = ""
    with output.noticed():
        while said.count("working") < 2:
            said += capsys.readouterr().err
        say("4 rows")
        for notice in (thread for thread in threading.enumerate() if thread.name == "notice"):
            notice.join(timeout=10)
            assert not notice.is_alive(), "what the command says itself is enough"
    assert said.startswith("finetune check: starting\nfinetune check: working, 0 s\n")


def test_ctrl_c_in_a_run_stops_it_with_one_sentence(tmp_path: Path) -> None:
    copy_database(tmp_path / "mlflow")
    env = {**os.environ, "FINETUNE_HOME": str(tmp_path)}
    env.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "finetune_pipeline.cli.main", "run", "ticket_triage", "--stage", "data"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    process = subprocess.Popen(command, env=env, text=True, **pipes)
    assert process.stdout is not None
    assert "base_model" in next(line for line in process.stdout if line.startswith("["))
    run = psutil.Process(process.pid)
    while not any("watch_orphans" in " ".join(child.cmdline()) for child in run.children()):
        time.sleep(0.05)  # what mirrors the step's output is there, too
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.strip() == "stopped; finished steps are kept, and the same command continues from there"
    assert "splits" not in out, "no further step begins"


def test_ctrl_c_says_what_a_step_leaves_behind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = "a job of the name 0a1b-1 may have been bought"

    @dg.op
    def adapter() -> None:
        raise dg.Failure("adapter was stopped by a signal", metadata={NOTES: left}, allow_retries=False)

    @dg.op
    def merged_model() -> None:
        raise dg.Failure("merged_model was stopped by a signal", allow_retries=False)

    @dg.job
    def job() -> None:
        adapter()
        merged_model()

    result = job.execute_in_process(raise_on_error=False)

    def fault() -> None:
        raise interruption(result)

    capsys.readouterr()  # Dagster's log
    _ends(monkeypatch, fault)
    first, *notes = capsys.readouterr().err.strip().splitlines()
    assert first == "stopped; finished steps are kept, and the same command continues from there"
    assert notes == [f"adapter: {left}"]


def test_ctrl_c_before_a_command_is_loaded_is_one_word() -> None:
    code = "import sys, finetune_pipeline.cli; raise KeyboardInterrupt"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=False)
    assert result.stderr == "stopped\n" and result.returncode


@pytest.mark.parametrize(
    ("error", "message"),
    [(KeyError("splits"), "KeyError: 'splits'"),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full: {home} could not be written\nfix: make")],
)  # fmt: skip
def test_a_failed_step_names_its_error_once_and_a_full_disk_that_only_dagster_meets_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path))

    @dg.op
    def step() -> None:
        raise error

    @dg.job
    def job() -> None:
        step()

    refused, [(name, said)] = refusals_and_failures(job.execute_in_process(raise_on_error=False))
    assert (refused, name) == ([], "step") and said.startswith(message.format(home=tmp_path))


def _ends(monkeypatch: pytest.MonkeyPatch, fault: Callable[[], object]) -> None:
    @click.command()
    def command() -> None:
        fault()

    monkeypatch.setattr(entry, "cli", command)
    monkeypatch.setattr(sys, "argv", ["finetune"])
    with pytest.raises(SystemExit) as end:
        entry.main()
    assert end.value.code == 1
