"""Where Dagster keeps its history, how its instance is set up, and what of it is replaced."""

import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from finetune_pipeline.orchestration.assets import task_jobs
from finetune_pipeline.orchestration.dagster_internals import (
    LONGEST_SLEEP,
    WORKSPACE,
    HomeStorage,
    dagster_folder,
    dagster_home,
    shown_on_the_timeline,
    watch_while_waiting,
)
from finetune_pipeline.orchestration.resources import Compute
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import load_task
from finetune_pipeline.tracking.database import migrate
from finetune_pipeline_tests.unit.orchestration.jobs import nothing

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The FINETUNE_HOME of this process, which works in another folder."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("DAGSTER_HOME", str(ROOT))
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_project_has_the_packages_instance_or_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dagster.yaml", "workspace.yaml"):
        assert WORKSPACE.with_name(name).read_bytes() == (ROOT / name).read_bytes(), f"two different {name}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINETUNE_HOME", raising=False)
    packaged = (ROOT / "dagster.yaml").read_text()
    assert dagster_home() == tmp_path / ".finetune/dagster"
    assert (dagster_home() / "dagster.yaml").read_text() == packaged
    for project_text, used in {
        packaged.replace("default_limit: 1", "default_limit: 2"): True,
        "run_queue: {max_concurrent_runs: 9}\n": False,  # of another Dagster project in this folder
    }.items():
        (tmp_path / "dagster.yaml").write_text(project_text)
        assert (dagster_home() / "dagster.yaml").read_text() == (project_text if used else packaged)


def test_the_instance_is_set_up_as_documented_with_its_history_below_home(home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        storages = (instance.run_storage._conn_string, instance.compute_log_manager._base_dir)
        assert storages == (f"sqlite:///{home}/dagster/history/history/runs.db", f"{home}/dagster/compute_logs")
        assert instance.storage_directory() == f"{home}/dagster/storage" and not list(Path().iterdir())
        assert not instance.telemetry_enabled and instance.run_monitoring_enabled
        assert instance.run_retries_enabled and instance.run_retries_max_retries == 2
        assert not instance.run_retries_retry_on_asset_or_op_failure
        pools = instance.get_concurrency_config().pool_config
        assert (pools.pool_granularity.value, pools.default_pool_limit) == ("op", 1)
        monitoring, compute = instance.run_monitoring_settings, Compute()
        assert monitoring["cancel_timeout_seconds"] > compute.grace_s + compute.terminate_s + 2 * compute.watch_run_s
        assert monitoring["free_slots_after_run_end_seconds"] == 10 and monitoring["max_resume_run_attempts"] == 0
        with dg.DagsterInstance.from_ref(instance.get_ref()) as elsewhere:  # how run workers get theirs
            assert elsewhere.run_storage._conn_string == instance.run_storage._conn_string
    assert dagster_folder() == home / "dagster"


def test_a_task_has_one_run_at_a_time_whoever_requested_it(home: Path) -> None:
    """A sensor and the schedule may look at the same moment, and see no run in progress."""
    tickets, orders = (task_jobs(load_task(ROOT / "data" / name)) for name in ("ticket_triage", "order_intake"))
    status = dg.DagsterRunStatus
    with dg.DagsterInstance.get() as instance:
        shown_on_the_timeline(instance)  # a queued run must name its code location

        def add(job: Any, run_status: dg.DagsterRunStatus = status.QUEUED) -> dg.DagsterRun:
            return instance.create_run_for_job(nothing, tags=job.tags, status=run_status)

        def dequeued() -> list[str]:
            runs = QueuedRunCoordinatorDaemon(1)._get_runs_to_dequeue(instance, instance.get_concurrency_config(), None)
            return [run.run_id for run in runs]

        command = add(tickets[0], status.STARTED)
        sensor, schedule, look, other = (add(job) for job in (tickets[0], tickets[0], tickets[-1], orders[0]))
        assert dequeued() == [other.run_id], "a run of the command line counts, too"
        instance.report_run_canceled(command)
        assert dequeued() == [sensor.run_id, other.run_id]
        instance.report_run_canceled(sensor)
        assert dequeued() == [schedule.run_id, other.run_id]
        instance.report_run_canceled(schedule)
        assert dequeued() == [look.run_id, other.run_id]


def test_several_may_open_a_new_history_at_once(home: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        opened = [threads.submit(HomeStorage.from_config_value, None, {}) for _ in range(8)]
    assert all(future.result().run_storage.get_runs_count() == 0 for future in opened)


def test_a_file_of_the_history_has_one_engine_and_waits_for_those_who_write(home: Path) -> None:
    """Dagster's own makes one for every event, and each compiles all its statements anew."""
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


def test_a_run_that_waits_for_a_slot_sleeps_until_it_looks_again_or_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = InstanceConcurrencyContext
    for name in ("claim", "interval_to_next_pending_claim_check"):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back afterwards
    watch_while_waiting()
    concurrency = {"pools": {"default_limit": 1, "granularity": "op"}}
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides={"concurrency": concurrency}) as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 1)
        holder, run = (instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED) for _ in range(2))
        assert storage.claim_concurrency_slot("gpu", holder.run_id, "adapter").is_claimed
        with InstanceConcurrencyContext(instance, run) as context:
            assert context.interval_to_next_pending_claim_check() == 0, "nothing is waited for yet"
            sleeps = []
            for _ in range(20):  # on a busy machine the time of the next look may have come already
                assert not context.claim("gpu", "adapter")
                sleeps.append(context.interval_to_next_pending_claim_check())
            assert 0 < max(sleeps) <= LONGEST_SLEEP
            storage.free_concurrency_slots_for_run(holder.run_id)
            looks = 0
            while not context.claim("gpu", "adapter"):
                looks += 1
                assert looks < 200, "the slot is free, and was not given"
                time.sleep(context.interval_to_next_pending_claim_check())
            assert not context.claim("gpu", "merged_model")
            instance.report_run_canceling(run)
            with pytest.raises(dg.DagsterExecutionInterruptedError):
                context.interval_to_next_pending_claim_check()
        assert storage.get_concurrency_info("gpu").pending_step_count == 0


@pytest.mark.parametrize("existing", [False, True])
def test_other_users_cannot_look_into_the_home_whatever_the_umask(home: Path, existing: bool) -> None:
    """Dagster's and MLflow's databases and logs hold texts of rows."""
    if existing:
        home.mkdir()
        home.chmod(0o755)
    before = os.umask(0o000)
    try:
        dagster_folder()
        assert stat.S_IMODE(home.stat().st_mode) == (0o750 if existing else 0o700)
        home.chmod(0o755)
        migrate(read_settings().tracking_uri)
        assert stat.S_IMODE(home.stat().st_mode) == 0o750
    finally:
        os.umask(before)
