"""Cleans up after killed command lines: closes their runs in Dagster and MLflow, and frees their slots."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import dagster as dg
import psutil

LIVE = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def close_abandoned_runs(instance: dg.DagsterInstance, task: str, finish: Callable[[str, str], int]) -> list[str]:
    """Mark as failed every run of a task that a command line on this machine started and whose process has ended.

    `finish` ends the run in MLflow. Returns the run ids. Dagster's daemon monitors the runs it starts itself.
    """
    closed = []
    for run in instance.get_runs(dg.RunsFilter(tags={"finetune/task": task}, statuses=LIVE)):
        if "finetune/pid" in run.tags and not _process_runs(run):
            instance.report_run_failed(run, "the process that executed this run was killed; run it again to continue")
            finish(run.run_id, "FAILURE")
            closed.append(run.run_id)
    return closed


def free_abandoned_slots(instance: dg.DagsterInstance) -> None:
    """Free the GPU pool slots held by killed command lines of any task; otherwise others would wait forever."""
    storage = instance.event_log_storage
    for key in storage.get_concurrency_keys() if storage.supports_global_concurrency_limits else ():
        for slot in storage.get_concurrency_info(key).claimed_slots:
            run = instance.get_run_by_id(slot.run_id)
            if run is not None and "finetune/pid" in run.tags and not _process_runs(run):
                storage.free_concurrency_slots_for_run(slot.run_id)


@contextlib.contextmanager
def abandoned_slots_freed(instance: dg.DagsterInstance) -> Iterator[None]:
    """Keep freeing slots while the block runs, since their holder may be killed meanwhile."""
    stop = threading.Event()

    def keep_freeing() -> None:
        while not stop.is_set():
            free_abandoned_slots(instance)
            stop.wait(10.0)

    thread = threading.Thread(target=keep_freeing, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def _process_runs(run: dg.DagsterRun) -> bool:
    """Whether a run's process is still running. After a restart of the machine or container, another may have its pid."""
    try:
        began = process_start(int(run.tags["finetune/pid"]))
    except psutil.NoSuchProcess:
        return False
    return abs(began - float(run.tags["finetune/process_started"])) < 1


def process_start(pid: int) -> float:
    """Return a process's start in seconds since boot, since the clock may be changed while it runs."""
    return psutil.Process(pid).create_time() - psutil.boot_time()
