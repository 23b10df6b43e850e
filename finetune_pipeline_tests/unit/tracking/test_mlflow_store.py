import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_pipeline.tracking import mlflow_store
from finetune_pipeline.tracking.database import migrate, read_database, sqlite_file
from finetune_pipeline.tracking.mlflow_store import TrackingError, redact, redact_field, without_credentials
from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline_tests import warm_workers
from finetune_pipeline_tests.dagster_dev import reserved_port
from finetune_pipeline_tests.service_server import Reply, Request, ServiceServer
from finetune_pipeline_tests.unit.processes import wait_until

ROOT = Path(__file__).resolve().parents[3]


def open_at_once(uri: str, name: str, other: str) -> None:
    """In a process of its own: run a step as soon as the other process is there, too."""
    Path(name).touch()
    wait_until(Path(other).exists)
    run: Any = SimpleNamespace(run_id="one-run", job_name="everything", root_run_id=None, tags={})
    context: Any = SimpleNamespace(run=run, retry_number=0)
    with Tracking(tracking_uri=uri).step(context, "tickets", name, "v1") as step:
        step.log_metrics({"rows": 1.0})


def revision(path: Path) -> str:
    with sqlite3.connect(path) as database:
        return str(database.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def old_database(path: Path) -> str:
    """A database one migration behind, with an experiment in it. Returns its revision."""
    mlflow_store.set_environment()
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base

    config = utils._get_alembic_config("")
    script = ScriptDirectory.from_config(config)
    before = script.get_revision(script.get_current_head()).down_revision
    engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, before)
    engine.dispose()
    with sqlite3.connect(path) as database:
        columns = "(experiment_id, name, artifact_location, lifecycle_stage)"
        database.execute(f"INSERT INTO experiments {columns} VALUES (7, 'kept', 'file:///x', 'active')")
    return str(before)


def test_a_database_whose_writer_was_killed_in_the_middle_is_read_as_it_was_before(tmp_path: Path) -> None:
    database = tmp_path / "writing.db"
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("CREATE TABLE runs (status TEXT)")
        writer.executemany("INSERT INTO runs VALUES (?)", [("RUNNING" * 100,)] * 1000)
        writer.execute("PRAGMA cache_size = 1")  # so that changed pages reach the file before the transaction ends
        writer.execute("BEGIN")
        writer.execute("UPDATE runs SET status = 'half'")
        for name, suffix in (
            ("killed", ""),
            ("killed", "-journal"),
            ("lost", "-journal"),
        ):  # as a SIGKILL would leave them
            shutil.copy(f"{database}{suffix}", tmp_path / f"{name}.db{suffix}")
    rows = read_database(tmp_path / "killed.db", "SELECT count(*) FROM runs WHERE status != 'half'")
    assert rows == [(1000,)]
    migrate(f"sqlite:///{tmp_path}/lost.db")  # the database was moved away, its journal was not
    assert read_database(tmp_path / "lost.db", "PRAGMA integrity_check") == [("ok",)]


def test_empty_database_opened_by_two_processes_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    env = {**os.environ, **warm_workers.start(), "PYTHONPATH": str(ROOT)}
    pipes = {"env": env, "cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    names = ["asset_0", "asset_1"]
    started = [
        subprocess.Popen(warm_workers.call_command(open_at_once, uri, *order), **pipes)
        for order in (names, names[::-1])
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    client = Tracking(tracking_uri=uri).client()
    (experiment,) = [e for e in client.search_experiments() if e.name == "finetune"]
    runs = client.search_runs([experiment.experiment_id])
    parents = [r for r in runs if r.data.tags["dagster.kind"] == "run"]
    nested = sorted(r.info.run_name for r in runs if r.data.tags["dagster.kind"] == "asset")
    assert len(parents) == 1 and nested == [f"tickets/{name}" for name in names]
    assert {r.data.tags["mlflow.parentRunId"] for r in runs if r not in parents} == {parents[0].info.run_id}
    assert sorted(p.name for p in tmp_path.iterdir()) == [*names, "mlflow"]  # nothing falls into the working folder


def test_an_old_database_is_migrated_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    before = old_database(path)
    (tmp_path / ".making-mlflow.db").write_bytes(b"left by a killed migration")
    migrate(f"sqlite:///{path}")
    assert revision(path) != before
    (backup,) = tmp_path.glob("mlflow.db.before-*")
    assert revision(backup) == before and not (tmp_path / ".making-mlflow.db").exists()
    names = {e.name for e in Tracking(tracking_uri=f"sqlite:///{path}").client().search_experiments()}
    assert {"kept", "finetune"} <= names


@pytest.mark.parametrize("revision", [None, "ffffffffffff"])
def test_a_database_of_another_program_or_a_newer_mlflow_is_refused_unchanged(
    tmp_path: Path, revision: str | None
) -> None:
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE customers (name TEXT)")
        if revision:
            database.execute("CREATE TABLE alembic_version (version_num TEXT)")
            database.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    before = path.read_bytes()
    with pytest.raises(TrackingError, match="is not a database of MLflow, or of a newer MLflow"):
        migrate(f"sqlite:///{path}")
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("mssql://ann:hunter2secret@host/runs", "fix: install the Python package of this database's driver"),
        ("ftp://host/runs", "unsupported URI"),
        ("http://ho st", "Invalid url"),
    ],
)
def test_an_address_that_cannot_be_used_is_told_in_a_sentence(tmp_path: Path, uri: str, message: str) -> None:
    with pytest.raises(TrackingError) as caught:
        Tracking(tracking_uri=uri, folder=str(tmp_path)).prepare()
    assert message in str(caught.value) and "hunter2secret" not in str(caught.value)


def test_a_missing_server_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    with reserved_port() as port, pytest.raises(TrackingError) as caught:
        Tracking(tracking_uri=f"http://ann:hunter2secret@127.0.0.1:{port}", folder=str(tmp_path)).prepare()
    message = str(caught.value)
    assert f"http://127.0.0.1:{port} cannot be reached" in message
    assert "fix: start it, correct MLFLOW_TRACKING_URI" in message and "hunter2secret" not in message


NO_SERVER = "fix: this address is not an MLflow server"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, "You are not authenticated", "fix: log in: set MLFLOW_TRACKING_USERNAME"),
        (403, '{"error_code": "PERMISSION_DENIED", "message": "no"}', "fix: ask its owner for read and write access"),
        (404, "<html>not here</html>", NO_SERVER),
        (500, "oops", "too many 500 error responses"),
        (200, "<html>welcome</html>", NO_SERVER),
        (200, '{"experiment": 7}', NO_SERVER),
    ],
)
def test_what_answers_unlike_mlflow_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, body: str, message: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    class Odd(ServiceServer):
        key = None

        def answer(self, request: Request) -> Reply:
            return Reply(body.encode(), status)

    server = Odd()
    with server, pytest.raises(TrackingError) as caught:
        Tracking(tracking_uri=server.address, folder=str(tmp_path)).prepare()
    assert str(caught.value).startswith(f"MLflow at {server.address} ") and message in str(caught.value)


def test_rows_are_looked_up_without_mlflow_and_nothing_is_made(tmp_path: Path) -> None:
    tracking = Tracking(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert tracking.look_up("SELECT alias FROM registered_model_aliases") == [] and not list(tmp_path.iterdir())
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE other (x TEXT)")
    assert tracking.look_up("SELECT alias FROM registered_model_aliases") is None, "MLflow is asked instead"
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 999)
    with pytest.raises(TrackingError, match="cannot be read: file is not a database"):
        tracking.look_up("SELECT alias FROM registered_model_aliases")
    assert Tracking(tracking_uri="http://127.0.0.1:1").look_up("SELECT 1") is None


def test_addresses() -> None:
    assert sqlite_file("sqlite:////a/b.db?timeout=3") == Path("/a/b.db") and sqlite_file("http://host") is None
    assert sqlite_file("sqlite:////home/100% é #1/mlflow.db") == Path("/home/100% é #1/mlflow.db")
    assert without_credentials("https://u:p@host:1/x") == "https://host:1/x"
    assert without_credentials("sqlite:////a@b.db") == "sqlite:////a@b.db"


ENV = {
    "OPENAI_API_KEY": "sk-live-1234567890", "HF_TOKEN": "hf_abcdefgh", "SHORT_KEY": "abc", "HOME": "/home/ann-lee",
    "DB_PASSWORD": "sk-live-1234567890-and-more",
}  # fmt: skip


def test_values_of_secret_variables_disappear_longest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    text = "used sk-live-1234567890-and-more, then sk-live-1234567890 and hf_abcdefgh in /home/ann-lee with abc"
    assert redact(text) == (
        "used [DB_PASSWORD redacted], then [OPENAI_API_KEY redacted] and [HF_TOKEN redacted] in /home/ann-lee with abc"
    )


def test_logins_in_addresses_and_fields_named_like_secrets_disappear() -> None:
    assert redact("at https://ann:pw@host/x, not a@b") == "at https://[redacted]@host/x, not a@b"
    for name in ("openai.api-key", "token", "Authorization"):
        assert redact_field(name, "whatever") == "[redacted]"
    for name, value in (
        ("max_tokens", "1024"),
        ("token", 7),
        ("tokenizer", "bpe"),
        ("key", "adapter"),
        ("monkey", "x"),
    ):
        assert redact_field(name, value) == str(value)


def test_a_call_whose_row_another_run_inserts_is_repeated_six_times_with_growing_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow.exceptions import MlflowException

    pauses: list[float] = []
    monkeypatch.setattr(mlflow_store.time, "sleep", pauses.append)
    random.seed(1)
    calls: list[str] = []

    def insert(fault: str, works_at: int) -> int:
        calls.append(fault)
        if len(calls) < works_at:
            raise MlflowException(fault)
        return len(calls)

    taken = "(sqlite3.IntegrityError) UNIQUE constraint failed"
    assert mlflow_store._repeated(insert, taken, works_at=6) == 6
    assert len(pauses) == 5 and all(0 <= pause <= 0.1 * 2**attempt for attempt, pause in enumerate(pauses))
    assert max(pauses) > 0.2 and len(set(pauses)) == 5, "two runs would meet again"
    calls.clear()
    with pytest.raises(MlflowException, match="UNIQUE"):
        mlflow_store._repeated(insert, taken, works_at=7)
    assert len(calls) == 6
    calls.clear()
    with pytest.raises(MlflowException, match="no such run"):
        mlflow_store._repeated(insert, "no such run", works_at=2)
    assert len(calls) == 1, "refused for another reason"
