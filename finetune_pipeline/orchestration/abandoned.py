"""Recognises runs whose process is gone: ends those of command lines, in Dagster and MLflow, and removes all from the pools."""

import re
import time

import dagster as dg
import psutil

from finetune_pipeline.tracking.tracking import Tracking

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


def close_abandoned_runs(instance: dg.DagsterInstance, task: str, tracking: Tracking) -> list[str]:
    """Mark as failed every run of a task that a command line on this machine started and whose process has ended, and remove it
    from the pools. Runs that have ended in Dagster are ended in MLflow, too: their process was killed between the two.

    Returns the ids of the failed runs. Dagster's daemon ends the runs it started, and tries them again.
    """
    closed = []
    for run in instance.get_runs(dg.RunsFilter(tags={"finetune/task": task}, statuses=LAUNCHED)):
        if _by_command_line(run) and is_abandoned(instance, run):
            # its record in Dagster last: who is killed before that leaves the run to be closed by the next one
            tracking.finish(run.run_id, "FAILURE")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            instance.report_run_failed(run, "the process that executed this run was killed; run it again to continue")
            closed.append(run.run_id)
    for run_id in tracking.open_runs(task):
        ended = instance.get_run_by_id(run_id)  # None: a run of another home with the same MLflow
        if ended is not None and ended.is_finished:
            tracking.finish(run_id, ended.status.value)
    return closed


def free_leftover_slots(instance: dg.DagsterInstance) -> None:
    """Remove from all pools what runs have left that are over: claimed slots, slots assigned to them, and waiting steps.

    A step that waits would get the slot when it is its turn. Nobody would ever claim it, and every other run would wait
    forever. A run is over if it has ended, was deleted, or its process is gone.
    """
    storage = instance.event_log_storage
    keys = sorted(storage.get_concurrency_keys()) if storage.supports_global_concurrency_limits else ()
    pools = [storage.get_concurrency_info(key) for key in keys]
    claimed = {slot.run_id for pool in pools for slot in pool.claimed_slots}
    for run_id in claimed | {step.run_id for pool in pools for step in pool.pending_steps}:
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished or is_abandoned(instance, run):
            storage.free_concurrency_slots_for_run(run_id)


def request_slot_again(instance: dg.DagsterInstance, pool: str, run_id: str, step_key: str) -> None:
    """Withdraw a waiting step's request if a slot is assigned to nobody: Dagster assigns it when the step requests it again.

    It assigns slots only at a request and when one is freed. Without this, a step would wait forever if the process that freed
    the slot was killed just then, or did not see the request yet. Call it only in the process that waits.
    """
    info = instance.event_log_storage.get_concurrency_info(pool)
    waits = any((s.run_id, s.step_key) == (run_id, step_key) and not s.assigned_timestamp for s in info.pending_steps)
    if waits and info.slot_count > info.assigned_step_count:
        instance.event_log_storage.free_concurrency_slot_for_step(run_id, step_key)


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
