"""Recognises runs whose process is gone: closes those of command lines, in Dagster and MLflow, and frees all their slots."""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator

import dagster as dg
import psutil

LAUNCHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_PID, _STARTED, _LAUNCHED = "finetune/pid", "finetune/process_started", "finetune/launched"
_SERVER = ".dagster/grpc_info"
"""Dagster's tag with the address of the code server that started a run: a socket file if it is on this machine."""
_LAUNCH_SECONDS = 60.0
"""Longest time between the launch of a run and the start of its process."""
_BEGAN = re.compile(r"Process (\d+) began ([\d.]+) s after the machine")


def close_abandoned_runs(instance: dg.DagsterInstance, task: str, finish: Callable[[str, str], int]) -> list[str]:
    """Mark as failed every run of a task that a command line on this machine started and whose process has ended.

    `finish` ends the run in MLflow. Returns the run ids. Dagster's daemon ends the runs it started, and tries them again.
    """
    closed = []
    for run in instance.get_runs(dg.RunsFilter(tags={"finetune/task": task}, statuses=LAUNCHED)):
        if _by_command_line(run) and is_abandoned(instance, run):
            instance.report_run_failed(run, "the process that executed this run was killed; run it again to continue")
            finish(run.run_id, "FAILURE")
            closed.append(run.run_id)
    return closed


def free_abandoned_slots(instance: dg.DagsterInstance) -> None:
    """Free the pool slots of all tasks' runs whose process is gone; otherwise others would wait forever."""
    storage = instance.event_log_storage
    for key in storage.get_concurrency_keys() if storage.supports_global_concurrency_limits else ():
        for slot in storage.get_concurrency_info(key).claimed_slots:
            run = instance.get_run_by_id(slot.run_id)
            if run is not None and is_abandoned(instance, run):
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


def is_abandoned(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run's process on this machine is known to be gone."""
    try:
        process = _process_of(instance, run)
        return process is not None and abs(process_start(process[0]) - process[1]) >= 1
    except psutil.NoSuchProcess:
        return True


def _process_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[int, float] | None:
    """Return the process that executes a run, and its start in seconds since boot; None if it is unknown or elsewhere.

    A command line records both in the run's tags. For a run that Dagster started, the log contains only the process number;
    the first call adds the start, since another process may get the number after a restart of the machine or container. A
    process that did not begin soon after :func:`launch_tags` is a different one.

    Raises:
        psutil.NoSuchProcess: It ended before the first call.
    """
    if _by_command_line(run):
        return int(run.tags[_PID]), float(run.tags[_STARTED])
    if "socket" not in run.tags.get(_SERVER, "socket"):
        return None
    engine_start = None
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.get_dagster_event()
        if match := _BEGAN.fullmatch(event.message or ""):
            return int(match[1]), float(match[2])
        if engine_start is None and "pid" in event.engine_event_data.metadata:
            engine_start = int(str(event.engine_event_data.metadata["pid"].value)), entry.timestamp
    if engine_start is None:
        return None
    pid, logged_at = engine_start
    started = process_start(pid)
    launched = run.tags.get(_LAUNCHED)  # else another launcher started it: compare by the clock
    earliest = float(launched) - 1 if launched else 0.0  # the boot time is accurate to a second
    latest = _LAUNCH_SECONDS + (earliest if launched else logged_at - psutil.boot_time())
    if not earliest <= started <= latest:
        raise psutil.NoSuchProcess(pid)
    instance.report_engine_event(f"Process {pid} began {started:.2f} s after the machine", run)
    return pid, started


def launch_tags() -> dict[str, str]:
    """Return the tags of a run that is launched now: the seconds since boot, which no change of the clock changes."""
    return {_LAUNCHED: f"{time.time() - psutil.boot_time():.2f}"}


def _by_command_line(run: dg.DagsterRun) -> bool:
    return _PID in run.tags and run.parent_run_id is None  # a re-executed run has its parent's tags


def process_start(pid: int) -> float:
    """Return a process's start in seconds since boot, since the clock may be changed while it runs.

    Raises:
        psutil.NoSuchProcess: It has ended. A zombie counts as ended, since in containers it may stay one forever.
    """
    process = psutil.Process(pid)
    if process.status() == psutil.STATUS_ZOMBIE:
        raise psutil.ZombieProcess(pid)
    return process.create_time() - psutil.boot_time()
