"""What the runs of a task say to those who would start another: one at a time, and not for ever."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg

from finetune_pipeline.spec.model import Task

IN_FLIGHT = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_LOOKED_AT = 20


def going_on(instance: dg.DagsterInstance, task: Task) -> str | None:
    """A sentence that names a run of the task that has not ended; None where there is none."""
    running = instance.get_runs(dg.RunsFilter(tags={"finetune/task": task.name}, statuses=IN_FLIGHT), limit=1)
    return f"run {running[0].run_id[:8]} of this task is going on; looking again after it" if running else None


def failures(instance: dg.DagsterInstance, task: Task) -> list[dg.DagsterRun]:
    """Whole runs that failed since the last one that succeeded, newest first. A run that was cancelled counts as neither."""
    whole = dg.RunsFilter(tags={"finetune/task": task.name, "finetune/stage": "all"})
    failed = []
    for run in instance.get_runs(whole, limit=_LOOKED_AT):
        if run.status == dg.DagsterRunStatus.SUCCESS:
            break
        if run.status == dg.DagsterRunStatus.FAILURE:
            failed.append(run)
    return failed


def since(instance: dg.DagsterInstance, task: Task, moment: float) -> dg.DagsterRun | None:
    """The newest whole run that was asked for after a moment (seconds since 1970) and did not fail, by whomever."""
    whole = dg.RunsFilter(
        tags={"finetune/task": task.name, "finetune/stage": "all"}, created_after=datetime.fromtimestamp(moment, UTC)
    )
    return next(
        (run for run in instance.get_runs(whole, limit=_LOOKED_AT) if run.status != dg.DagsterRunStatus.FAILURE), None
    )


def whole_run(
    instance: dg.DagsterInstance, task: Task, key: str, trigger: str, why: str, job_name: str | None = None
) -> dg.RunRequest | dg.SkipReason:
    """Ask for a run of the whole graph; the same batch (`key`) again after a failure, at most `retraining.attempts` times.

    After so many failures a person is asked: a run of theirs that succeeds opens the way again.
    """
    if told := going_on(instance, task):
        return dg.SkipReason(told)
    failed, most = failures(instance, task), task.spec.retraining.attempts
    if len(failed) >= most:
        return dg.SkipReason(
            f"{why}; but the last {len(failed)} runs failed (the newest is {failed[0].run_id[:8]}): a person must look. "
            f"Mend the cause and start `finetune run {task.name}` by hand; after a run that succeeds this goes on by itself"
        )
    again = f", attempt {len(failed) + 1} of {most} after {len(failed)} failed" if failed else ""
    last = failed[0].run_id[:8] if failed else "first"
    return dg.RunRequest(
        run_key=f"{trigger}-{key}-{last}",
        job_name=job_name,
        tags={"finetune/trigger": trigger, "finetune/why": f"{why}{again}"},
    )
