from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS

from finetune_pipeline.orchestration.dagster_internals import WORKSPACE, dagster_folder, dagster_home
from finetune_pipeline.orchestration.resources import Compute

ROOT = Path(__file__).resolve().parents[3]
SHOW = (
    "import dagster as dg\nwith dg.DagsterInstance.get() as i: print(i.run_storage._conn_string, "
    "i.compute_log_manager._base_dir, i.storage_directory())"
)


def test_history_is_below_home_whatever_the_working_folder(tmp_path: Path) -> None:
    told = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DAGSTER_HOME": str(ROOT),
            "FINETUNE_HOME": str(tmp_path / "home"),
        }
        told.add(
            subprocess.run(
                [sys.executable, "-c", SHOW],
                env=env,
                cwd=tmp_path / name,
                check=True,
                timeout=60,
                capture_output=True,
                text=True,
            ).stdout
        )
        assert not list((tmp_path / name).iterdir())
    (shown,) = told
    home = f"{tmp_path}/home/dagster"
    assert shown.split() == [f"sqlite:///{home}/history/history/runs.db", f"{home}/compute_logs", f"{home}/storage"]


def test_a_project_has_the_packages_instance_or_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dagster.yaml", "workspace.yaml"):
        assert WORKSPACE.with_name(name).read_bytes() == (ROOT / name).read_bytes(), f"two different {name}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINETUNE_HOME", raising=False)
    packaged = (ROOT / "dagster.yaml").read_text()
    assert dagster_home() == tmp_path / ".finetune/dagster"
    assert (dagster_home() / "dagster.yaml").read_text() == packaged
    for own, used in {
        packaged.replace("default_limit: 1", "default_limit: 2"): True,
        "run_queue: {max_concurrent_runs: 9}\n": False,  # of another Dagster project in this folder
    }.items():
        (tmp_path / "dagster.yaml").write_text(own)
        assert (dagster_home() / "dagster.yaml").read_text() == (own if used else packaged)


def test_the_instance_is_set_up_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(ROOT))
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert instance.run_retries_enabled
        assert instance.run_retries_max_retries == 2
        assert not instance.run_retries_retry_on_asset_or_op_failure
        pools = instance.get_concurrency_config().pool_config
        assert (pools.pool_granularity.value, pools.default_pool_limit) == ("op", 1)
        monitoring = instance.run_monitoring_settings
        compute = Compute()
        assert monitoring["cancel_timeout_seconds"] > compute.grace_s + compute.terminate_s + 2 * compute.watch_run_s
        assert monitoring["free_slots_after_run_end_seconds"] == 10
        assert monitoring["max_resume_run_attempts"] == 0
        with dg.DagsterInstance.from_ref(instance.get_ref()) as elsewhere:  # how run workers get theirs
            assert elsewhere.run_storage._conn_string == instance.run_storage._conn_string
    assert dagster_folder() == tmp_path / "dagster"


def test_a_file_of_the_history_has_one_engine_and_waits_for_those_who_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster's own makes one for every event, and each compiles all its statements anew."""
    monkeypatch.setenv("DAGSTER_HOME", str(ROOT))
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path))
    engines = []
    with dg.DagsterInstance.get() as instance:
        for run_id in ("a", "a", "b"):
            with instance.event_log_storage.run_connection(run_id) as connection:
                engines.append(connection.engine)
                waits = connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
                assert waits == 1000 * SQLITE_BUSY_TIMEOUT_SECONDS
        with instance.run_storage.connect() as connection:
            engines.append(connection.engine)
    assert engines[0] is engines[1] and len(set(engines)) == 3
