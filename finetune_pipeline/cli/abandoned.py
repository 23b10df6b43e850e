"""Runs whose process was killed: said so in Dagster and MLflow, so that nobody waits for them."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import psutil

LIVE = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def close_abandoned_runs(instance: dg.DagsterInstance, task: str, finish: Callable[[str, str], int]) -> list[str]:
    """Mark as failed every run that a command line of this machine started and whose process is gone.

    `finish` ends the run in MLflow. Returns the run ids. Runs started by Dagster's daemon are the daemon's to watch.
    """
    closed = []
    for run in instance.get_runs(dg.RunsFilter(tags={"finetune/task": task}, statuses=LIVE)):
        pid = run.tags.get("finetune/pid")
        if pid and not psutil.pid_exists(int(pid)):
            instance.report_run_failed(run, "the process that executed this run was killed; run it again to go on")
            # its steps still hold their slots of the GPU pool; a new run would wait for them for ever
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            finish(run.run_id, "FAILURE")
            closed.append(run.run_id)
    return closed
