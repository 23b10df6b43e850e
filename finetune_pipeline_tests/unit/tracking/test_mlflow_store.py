from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_pipeline.tracking import mlflow_store
from finetune_pipeline.tracking.mlflow_store import TrackingError, migrate, sqlite_file, without_credentials
from finetune_pipeline.tracking.tracking import Tracking

ROOT = Path(__file__).resolve().parents[3]

OPEN_AT_ONCE = """
import sys, time
from types import SimpleNamespace
from finetune_pipeline.tracking.tracking import Tracking
tracking = Tracking(tracking_uri=sys.argv[1])
from finetune_pipeline.tracking.mlflow_store import set_environment
set_environment()
import mlflow
while time.time() < float(sys.argv[2]):
    time.sleep(0.01)
run = SimpleNamespace(run_id="one-run", job_name="everything", root_run_id=None, tags={})
with tracking.step(SimpleNamespace(run=run, retry_number=0), "tickets", "asset_" + sys.argv[3], "v1") as step:
    step.log_metrics({"rows": 1.0})
"""


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
        database.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
            "VALUES (7, 'kept', 'file:///x', 'active')"
        )
    return str(before)


def test_empty_database_opened_by_four_processes_at_once(tmp_path: Path) -> None:
    import time

    uri = f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    begin = str(time.time() + 6)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AT_ONCE, uri, begin, str(i)],
            env=env,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(4)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    client = Tracking(tracking_uri=uri).client()
    (experiment,) = [e for e in client.search_experiments() if e.name == "finetune"]
    runs = client.search_runs([experiment.experiment_id])
    parents = [r for r in runs if r.data.tags["dagster.kind"] == "run"]
    nested = sorted(r.info.run_name for r in runs if r.data.tags["dagster.kind"] == "asset")
    assert len(parents) == 1
    assert nested == [f"tickets/asset_{i}" for i in range(4)]
    assert {r.data.tags["mlflow.parentRunId"] for r in runs if r not in parents} == {parents[0].info.run_id}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mlflow"]  # nothing falls into the working folder


def test_an_old_database_is_migrated_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    before = old_database(path)
    (tmp_path / ".making-mlflow.db").write_bytes(b"left by a killed migration")
    migrate(f"sqlite:///{path}")
    assert revision(path) != before
    (kept,) = tmp_path.glob("mlflow.db.before-*")
    assert revision(kept) == before
    assert not (tmp_path / ".making-mlflow.db").exists()
    names = {e.name for e in Tracking(tracking_uri=f"sqlite:///{path}").client().search_experiments()}
    assert {"kept", "finetune"} <= names


def test_a_missing_server_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tracking = Tracking(tracking_uri=f"http://ann:hunter2secret@127.0.0.1:{port}", folder=str(tmp_path))
    with pytest.raises(TrackingError) as caught:
        tracking.prepare()
    message = str(caught.value)
    assert f"http://127.0.0.1:{port} cannot be reached" in message
    assert "fix: start it, correct MLFLOW_TRACKING_URI" in message
    assert "hunter2secret" not in message


def test_addresses() -> None:
    assert sqlite_file("sqlite:////a/b.db?timeout=3") == Path("/a/b.db")
    assert sqlite_file("http://host") is None
    with pytest.raises(ValueError, match="relative to a working folder"):
        sqlite_file("sqlite:///b.db")
    assert without_credentials("https://u:p@host:1/x") == "https://host:1/x"
    assert without_credentials("sqlite:////a@b.db") == "sqlite:////a@b.db"
