"""Sensors: new production logs and drift start what the spec says; finished runs end in MLflow."""

from collections.abc import Sequence

import dagster as dg

from finetune_pipeline.orchestration.runs import going_on, since, whole_run
from finetune_pipeline.orchestration.store import Store
from finetune_pipeline.production.ingest import count_rows
from finetune_pipeline.production.standing import standing
from finetune_pipeline.production.waiting import what_waits
from finetune_pipeline.spec.model import Task
from finetune_pipeline.tracking.trace_logs import take_traces
from finetune_pipeline.tracking.tracking import Tracking


def new_logs_sensor(task: Task) -> dg.SensorDefinition:
    """Asks for a run when enough usable new rows lie under the task's logs, or the oldest waits too long, and the files have
    settled."""

    @dg.sensor(
        name=f"{task.name}__new_logs",
        job_name=f"{task.name}__all",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Starts a run of {task.name} when `{task.spec.logs.path}/` holds at least "
        f"{task.spec.logs.min_new_rows} usable new rows, or one that has waited "
        f"{task.spec.retraining.longest_wait_days:g} days.",
    )
    def new_logs(context: dg.SensorEvaluationContext, store: Store) -> dg.RunRequest | dg.SkipReason:
        if told := going_on(context.instance, task):
            return dg.SkipReason(told)
        take_traces(task, store.artifacts(), Tracking())
        waits = what_waits(task, store.artifacts())
        if not waits.ready:
            return dg.SkipReason(waits.sentence)
        return whole_run(context.instance, task, waits.digest, "new_logs", waits.sentence)

    return new_logs


def drift_sensor(task: Task, jobs: "Sequence[dg.UnresolvedAssetJobDefinition]") -> dg.SensorDefinition:
    """Looks at production whenever a window of rows has come in, and does what `drift.action` says about drift.

    A drift for which no run was started yet comes first: rows may come in so fast that another look is always due.
    jobs: those of the task.
    """

    @dg.sensor(
        name=f"{task.name}__drift",
        jobs=[job for job in jobs if job.name in (f"{task.name}__all", f"{task.name}__production")],
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Looks at production after every {task.spec.drift.window_rows} rows; on drift: "
        f"{task.spec.drift.action}.",
    )
    def drift(context: dg.SensorEvaluationContext, store: Store, tracking: Tracking) -> dg.RunRequest | dg.SkipReason:
        from finetune_pipeline.tracking import registry

        if told := going_on(context.instance, task):
            return dg.SkipReason(told)
        artifacts = store.artifacts()
        serving = registry.champion(tracking, task.name)
        found = standing(task, artifacts, count_rows(task, artifacts), serving)
        told = found.sentence
        if found.retrain and task.spec.drift.action == "start":
            done = since(context.instance, task, found.made)
            if done is None:
                asked = whole_run(context.instance, task, found.report, "drift", told, f"{task.name}__all")
                if isinstance(asked, dg.RunRequest) or not found.look:
                    return asked
            else:
                told = f"{told} Run {done.run_id[:8]} began since."
        if found.look:
            return dg.RunRequest(
                run_key=f"look-{found.look_key}",
                job_name=f"{task.name}__production",
                tags={"finetune/trigger": "drift", "finetune/why": found.look},
            )
        if found.drifted and task.spec.drift.action == "propose":
            return dg.SkipReason(f"{told} Proposed: `finetune run {task.name}`.")
        return dg.SkipReason(told)

    return drift


def mlflow_closers() -> list[dg.SensorDefinition]:
    """Runs started from the UI end in MLflow as they ended in Dagster."""
    states = {
        "success": (dg.DagsterRunStatus.SUCCESS, "FINISHED"),
        "failure": (dg.DagsterRunStatus.FAILURE, "FAILED"),
        "canceled": (dg.DagsterRunStatus.CANCELED, "KILLED"),
    }

    def closer(name: str, status: dg.DagsterRunStatus, told: str) -> dg.SensorDefinition:
        @dg.run_status_sensor(
            run_status=status,
            name=f"mlflow_closes_{name}",
            minimum_interval_seconds=15,
            default_status=dg.DefaultSensorStatus.RUNNING,
            description=f"Ends the MLflow run of a Dagster run that ended in {status.value}.",
        )
        def close(context: dg.RunStatusSensorContext, tracking: Tracking) -> None:
            tracking.finish(context.dagster_run.run_id, told)

        return close

    return [closer(name, status, told) for name, (status, told) in states.items()]
