"""Runs of command lines that were killed: what Dagster and MLflow still believe of them, and the slots that they hold."""

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
    """Mark as failed every run of a task that a command line of this machine started and whose process is gone.

    `finish` ends the run in MLflow. Returns the run ids. Runs started by Dagster's daemon are the daemon's to watch.
    """
    closed = []
    for run in instance.get_runs(dg.RunsFilter(tags={"finetune/task": task}, statuses=LIVE)):
        if "finetune/pid" in run.tags and not _process_runs(run):
            instance.report_run_failed(run, "the process that executed this run was killed; run it again to go on")
            finish(run.run_id, "FAILURE")
            closed.append(run.run_id)
    return closed


def free_abandoned_slots(instance: dg.DagsterInstance) -> None:
    """Free the slots of the GPU pool that killed command lines hold, of any task: who needs one would wait for ever."""
    storage = instance.event_log_storage
    for key in storage.get_concurrency_keys() if storage.supports_global_concurrency_limits else ():
        for slot in storage.get_concurrency_info(key).claimed_slots:
            run = instance.get_run_by_id(slot.run_id)
            if run is not None and "finetune/pid" in run.tags and not _process_runs(run):
                storage.free_concurrency_slots_for_run(slot.run_id)


@contextlib.contextmanager
def abandoned_slots_freed(instance: dg.DagsterInstance) -> Iterator[None]:
    """Keep freeing them while the block runs: the one that is waited for may be killed meanwhile."""
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
    """Whether the process of a run still runs. After a restart of the machine or container another may have its number."""
    try:
        began = process_start(int(run.tags["finetune/pid"]))
    except psutil.NoSuchProcess:
        return False
    return abs(began - float(run.tags["finetune/process_started"])) < 1


def process_start(pid: int) -> float:
    """When a process started, in seconds since the machine did: the clock may be set while it runs."""
    return psutil.Process(pid).create_time() - psutil.boot_time()
