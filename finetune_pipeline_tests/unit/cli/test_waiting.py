"""Who a run waits for is told on the terminal: by the watcher, from Dagster's pool and from the device lease."""

import os
import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.events import EngineEventData

from finetune_pipeline.cli.run import pool_wait
from finetune_pipeline.cli.watch import Watcher
from finetune_pipeline.orchestration.abandoned import (
    abandoned_slots_freed,
    close_abandoned_runs,
    free_abandoned_slots,
    is_abandoned,
    launch_tags,
    process_start,
)
from finetune_pipeline.orchestration.resources import Compute
from finetune_pipeline.orchestration.sensors import run_in_progress
from finetune_pipeline.progress import VARIABLE, tell
from finetune_pipeline.spec import load_task
from finetune_pipeline.worker.device_lease import lease
from finetune_pipeline.worker.supervised import Stopped
from finetune_pipeline_tests.shared import copy_database
from finetune_pipeline_tests.unit.orchestration.jobs import nothing
from finetune_pipeline_tests.unit.processes import wait_until

ROOT = Path(__file__).resolve().parents[3]
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system keeps the time a process started")


def test_the_pool_names_the_run_that_holds_it(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        tags = {"finetune/task": "tickets", "finetune/pid": "77"}
        holder, waiter = (instance.create_run_for_job(nothing, tags=tags).run_id for _ in range(2))
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 1)
        assert storage.claim_concurrency_slot("gpu", holder, "tickets__adapter").is_claimed
        assert pool_wait(instance, waiter) is None, "it has not asked for the pool yet"
        assert not storage.claim_concurrency_slot("gpu", waiter, "tickets__few_shot_baseline").is_claimed
        words = pool_wait(instance, waiter)
        assert words is not None
        assert words.startswith(f"waiting for pool gpu (adapter of tickets (run {holder[:8]}, process 77), for ")
        assert pool_wait(instance, holder) is None
        storage.free_concurrency_slots_for_run(holder)
        assert pool_wait(instance, waiter) is None


def begun(
    instance: dg.DagsterInstance, task: str, started: float, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED
) -> str:
    """The id of a run of this process that began so many seconds after the machine: with another time, one that is gone."""
    tags = {"finetune/task": task, "finetune/pid": str(os.getpid()), "finetune/process_started": f"{started:.2f}"}
    return instance.create_run_for_job(nothing, tags=tags, status=status).run_id


def test_a_run_whose_process_is_gone_is_closed_even_where_another_has_its_number(tmp_path: Path) -> None:
    now = psutil.Process().create_time() - psutil.boot_time()
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        gone = begun(instance, "tickets", now - 3600)
        begun(instance, "orders", now - 3600)
        begun(instance, "tickets", now)
        (run,) = instance.get_runs(dg.RunsFilter(run_ids=[gone]))
        # a re-executed run has its parent's tags
        parent = {"tags": run.tags, "parent_run_id": gone, "root_run_id": gone}
        instance.create_run_for_job(nothing, status=run.status, **parent)
        ended: list[tuple[str, str]] = []
        closed = close_abandoned_runs(instance, "tickets", lambda run, status: ended.append((run, status)) or 1)
        assert closed == [gone] and ended == [(gone, "FAILURE")]
        left = instance.get_runs(dg.RunsFilter(statuses=[run.status]))
        assert len(left) == 3, "another task closes its own, in MLflow, too"


def test_a_command_that_was_killed_before_its_run_started_holds_back_no_sensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", copy_database(tmp_path / "mlflow"))
    task = load_task(ROOT / "data" / "ticket_triage")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        begun(instance, task.name, 0.0, dg.DagsterRunStatus.NOT_STARTED)
        assert run_in_progress(instance, task) is None


def set_clock(folder: Path, seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have started so much later by its clock."""
    folder.mkdir()
    for entry in Path("/proc").iterdir():
        if entry.name not in ("stat", "self"):
            (folder / entry.name).symlink_to(entry)
    stat_text = re.sub(r"btime (\d+)", lambda m: f"btime {int(m[1]) + seconds}", Path("/proc/stat").read_text())
    (folder / "stat").write_text(stat_text)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(folder))


@linux
def test_a_clock_that_is_set_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = process_start(os.getpid())
    set_clock(tmp_path / "proc", -3600, monkeypatch)
    assert abs(psutil.boot_time() - (psutil.Process().create_time() - before)) < 1, "the clock was set"
    assert process_start(os.getpid()) == pytest.approx(before, abs=0.02)


@linux
def test_a_clock_set_forward_before_the_first_look_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def launched(instance: dg.DagsterInstance, tags: dict[str, str], pid: int) -> dg.DagsterRun:
        run = instance.create_run_for_job(nothing, tags=tags, status=dg.DagsterRunStatus.STARTED)
        instance.report_engine_event("Started process", run, EngineEventData({"pid": dg.MetadataValue.int(pid)}))
        return run

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        tags = launch_tags()
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            own_run, parent_run = launched(instance, tags, process.pid), launched(instance, tags, os.getppid())
            set_clock(tmp_path / "proc", 3600, monkeypatch)
            assert not is_abandoned(instance, own_run)
            assert is_abandoned(instance, parent_run), "it began long before the run was launched"
            process.communicate(b"\n")


def test_a_killed_run_of_any_task_holds_no_slot_and_a_running_one_keeps_its_own(tmp_path: Path) -> None:
    now = psutil.Process().create_time() - psutil.boot_time()
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        gone, running = begun(instance, "orders", now - 3600), begun(instance, "orders", now)
        waiting = begun(instance, "tickets", now)
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 2)
        for run in (gone, running):
            assert storage.claim_concurrency_slot("gpu", run, "orders__adapter").is_claimed
        assert not storage.claim_concurrency_slot("gpu", waiting, "tickets__adapter").is_claimed
        with abandoned_slots_freed(instance):  # as a run does that waits already when another one is killed
            wait_until(lambda: gone not in {s.run_id for s in storage.get_concurrency_info("gpu").claimed_slots})
        free_abandoned_slots(instance)
        assert running in {slot.run_id for slot in storage.get_concurrency_info("gpu").claimed_slots}
        assert storage.claim_concurrency_slot("gpu", waiting, "tickets__adapter").is_claimed


def test_a_held_device_is_told_with_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lines = tmp_path / "progress.jsonl", []
    monkeypatch.setenv(VARIABLE, str(path))
    compute = Compute(devices=["cpu"], lock_folder=str(tmp_path / "locks"))
    monkeypatch.setattr(
        "finetune_pipeline.orchestration.resources._run_watcher", lambda op, every: lambda: "enough waited"
    )
    with (
        lease(["cpu"], lambda _: tmp_path / "locks", holder="adapter of tickets (run 12345678)"),
        Watcher(path, 1, lines.append),
    ):
        tell("adapter", "begins")
        with pytest.raises((Stopped, RuntimeError), match="enough waited"):
            compute.launch(None, {"stage": "adapter", "out": str(tmp_path / "out"), "action": "train"})
    assert lines == [
        "[ 1/1] adapter",
        "        waiting for a free device (cpu: adapter of tickets (run 12345678), started by process "
        f"{os.getpid()}, for 0 s)",
    ]
