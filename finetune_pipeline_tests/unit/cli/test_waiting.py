"""Who a run waits for is told on the terminal: by the watcher, from Dagster's pool and from the device lease."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster._core.events import EngineEventData
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.storage.event_log.base import EventLogStorage

from finetune_pipeline.cli.run import pool_wait
from finetune_pipeline.cli.watch import Watcher
from finetune_pipeline.jobs import Job
from finetune_pipeline.orchestration.abandoned import (
    close_abandoned_runs,
    free_leftover_slots,
    is_abandoned,
    launch_tags,
    process_start,
)
from finetune_pipeline.orchestration.dagster_internals import watch_while_waiting
from finetune_pipeline.orchestration.resources import Compute
from finetune_pipeline.orchestration.sensors import run_in_progress
from finetune_pipeline.progress import VARIABLE, tell
from finetune_pipeline.spec import load_task
from finetune_pipeline.worker.device_lease import lease
from finetune_pipeline.worker.supervised import Stopped
from finetune_pipeline_tests.shared import copy_database
from finetune_pipeline_tests.unit.orchestration.jobs import nothing

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
        # two that ask in one second have no order, but for their priority
        assert not storage.claim_concurrency_slot("gpu", waiter, "tickets__few_shot_baseline", priority=1).is_claimed
        words = pool_wait(instance, waiter)
        assert words is not None
        assert words.startswith(f"waiting for pool gpu (adapter of tickets (run {holder[:8]}, process 77), for ")
        assert pool_wait(instance, holder) is None
        other = instance.create_run_for_job(nothing, tags={"finetune/task": "orders"}).run_id
        storage.claim_concurrency_slot("gpu", other, "orders__adapter")
        storage.free_concurrency_slots_for_run(holder)
        assert (
            pool_wait(instance, other)
            == f"waiting for pool gpu (few_shot_baseline of tickets (run {waiter[:8]}, process 77) is next)"
        )
        storage.free_concurrency_slots_for_run(waiter)
        storage.free_concurrency_slots_for_run(other)
        assert pool_wait(instance, waiter) is None


def begun(
    instance: dg.DagsterInstance, task: str, started: float, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED
) -> str:
    """The id of a run of this process that began so many seconds after the machine: with another time, one that is gone."""
    tags = {"finetune/task": task, "finetune/pid": str(os.getpid()), "finetune/process_started": f"{started:.2f}"}
    return instance.create_run_for_job(nothing, tags=tags, status=status).run_id


class Runs:
    """The ends of runs in MLflow. killed: whether a process is killed before it ends one."""

    def __init__(self, *left_open: str, killed: bool = False) -> None:
        self.left_open, self.killed = list(left_open), killed
        self.ended: list[tuple[str, str]] = []

    def open_runs(self, task: str) -> list[str]:
        return self.left_open

    def finish(self, run_id: str, status: str) -> int:
        if self.killed:
            raise KeyboardInterrupt
        self.ended.append((run_id, status))
        return 1


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
        ended = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.STARTED
        before_mlflow, running = (begun(instance, "tickets", now, status) for status in ended)
        runs = Runs(before_mlflow, running, "a run of another home")
        storage = set_pool(instance)
        assert storage.claim_concurrency_slot("gpu", gone, "tickets__adapter").is_claimed
        closed = close_abandoned_runs(instance, "tickets", runs)
        assert closed == [gone] and runs.ended == [(gone, "FAILURE"), (before_mlflow, "SUCCESS")]
        left = instance.get_runs(dg.RunsFilter(statuses=[run.status]))
        assert len(left) == 4, "another task closes its own, in MLflow, too"
        assert not storage.get_concurrency_run_ids(), "nor does it keep a slot"


def test_a_run_is_closed_by_the_next_one_if_the_one_that_closes_it_is_killed(tmp_path: Path) -> None:
    """Its run in MLflow would stay open for ever."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        gone = begun(instance, "tickets", process_start(os.getpid()) - 3600)
        with pytest.raises(KeyboardInterrupt):
            close_abandoned_runs(instance, "tickets", Runs(killed=True))
        assert close_abandoned_runs(instance, "tickets", Runs()) == [gone]


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


def set_pool(instance: dg.DagsterInstance, slots: int = 1) -> EventLogStorage:
    storage = instance.event_log_storage
    storage.set_concurrency_slots("gpu", slots)
    return storage


def left_over(instance: dg.DagsterInstance, kind: str, run: str, working: str) -> None:
    """Leave what a run leaves in the pool that stops at a moment, while another run works and then frees its slot."""
    storage = set_pool(instance)
    if kind == "claimed":
        assert storage.claim_concurrency_slot("gpu", run, "orders__adapter").is_claimed
        return
    assert storage.claim_concurrency_slot("gpu", working, "tickets__adapter").is_claimed
    assert not storage.claim_concurrency_slot("gpu", run, "orders__adapter").is_claimed
    if kind == "assigned":
        storage.free_concurrency_slots_for_run(working)
        assert storage.get_concurrency_info("gpu").assigned_run_ids == {run}


@pytest.mark.parametrize("kind", ["claimed", "assigned", "pending"])
@pytest.mark.parametrize("end", ["dead", "ended", "deleted"])
def test_a_run_that_is_over_leaves_nothing_in_the_pool(tmp_path: Path, kind: str, end: str) -> None:
    """A waiting row gets the slot when it is its turn, and nobody would ever claim it."""
    now = process_start(os.getpid())
    status = dg.DagsterRunStatus.CANCELED if end == "ended" else dg.DagsterRunStatus.STARTED
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        over = begun(instance, "orders", now - 3600 if end == "dead" else now, status)
        working, waiting = (begun(instance, "tickets", now) for _ in range(2))
        left_over(instance, kind, over, working)
        if end == "deleted":
            instance.run_storage.delete_run(over)
        storage = instance.event_log_storage
        free_leftover_slots(instance)
        assert over not in storage.get_concurrency_run_ids()
        if kind == "pending":
            assert storage.get_concurrency_info("gpu").active_run_ids == {working}, "a running one keeps its own"
            storage.free_concurrency_slots_for_run(working)
        assert storage.claim_concurrency_slot("gpu", waiting, "tickets__merged_model").is_claimed


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Dagster's waiting runs do is replaced, and put back afterwards."""
    for name in ("claim", "interval_to_next_pending_claim_check"):
        monkeypatch.setattr(InstanceConcurrencyContext, name, getattr(InstanceConcurrencyContext, name))
    monkeypatch.setattr("finetune_pipeline.orchestration.dagster_internals.LOOK_SECONDS", 0.0)
    watch_while_waiting()


def wait_for_slot(instance: dg.DagsterInstance, run_id: str, step: str) -> None:
    """Wait for a slot as an executor does; fail if it never comes."""
    run = instance.get_run_by_id(run_id)
    assert run is not None
    with InstanceConcurrencyContext(instance, run) as context:
        looks = 0
        while not context.claim("gpu", step):
            looks += 1
            assert looks < 100, instance.event_log_storage.get_concurrency_info("gpu")
            time.sleep(context.interval_to_next_pending_claim_check())


@pytest.mark.parametrize("kind", ["claimed", "assigned", "pending"])
def test_a_run_goes_on_though_another_is_killed_that_used_or_wanted_its_pool(
    tmp_path: Path, watched: None, kind: str
) -> None:
    """However it was started: the process that waits looks itself."""
    now = process_start(os.getpid())
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        gone, working = begun(instance, "orders", now - 3600), begun(instance, "tickets", now)
        left_over(instance, kind, gone, working)
        instance.event_log_storage.free_concurrency_slots_for_run(working)
        wait_for_slot(instance, working, "tickets__merged_model")


def test_a_run_goes_on_though_the_slot_was_assigned_to_nobody(tmp_path: Path, watched: None) -> None:
    """The process that freed it was killed before it assigned it, or did not see yet that another run waits."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        waiting = begun(instance, "tickets", process_start(os.getpid()))
        storage: Any = set_pool(instance)
        storage.add_pending_step("gpu", waiting, "tickets__adapter")
        wait_for_slot(instance, waiting, "tickets__adapter")


def test_a_run_that_waits_says_for_whom_and_obeys_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command itself: the holder lives, so that its slot is not taken away."""
    copy_database(tmp_path / "mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in {"FINETUNE_HOME": tmp_path, "DAGSTER_HOME": ROOT}.items():
        monkeypatch.setenv(name, str(value))
    with dg.DagsterInstance.get() as instance:
        holder = begun(instance, "orders", process_start(os.getpid()))
        storage = set_pool(instance)
        assert storage.claim_concurrency_slot("gpu", holder, "orders__adapter").is_claimed
        command = [sys.executable, "-m", "finetune_pipeline.cli.main", "run", "ticket_triage", "--stage", "data"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
        with subprocess.Popen(command, text=True, **pipes) as process:
            assert process.stdout is not None
            waits = next((line for line in process.stdout if "waiting for pool gpu" in line), "")
            assert f"(adapter of orders (run {holder[:8]}, process {os.getpid()})" in waits
            os.killpg(process.pid, signal.SIGTERM)
            output = process.communicate(timeout=60)[0]
        assert process.returncode == 1
        assert "stopped; finished steps are kept" in output and "Traceback" not in output, output
        (run,) = instance.get_runs(dg.RunsFilter(tags={"finetune/task": "ticket_triage"}))
        assert run.status == dg.DagsterRunStatus.CANCELED
        assert storage.get_concurrency_run_ids() == {holder}


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
            compute.launch(None, Job(stage="adapter", out=tmp_path / "out"))
    assert lines == [
        "[ 1/1] adapter",
        "        waiting for a free device (cpu: adapter of tickets (run 12345678), started by process "
        f"{os.getpid()}, for 0 s)",
    ]
