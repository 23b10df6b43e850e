"""Sensors: new production logs start a run; finished runs are closed in MLflow."""

import dagster as dg

from finetune_pipeline.production.waiting import what_waits
from finetune_pipeline.resources.store import Store
from finetune_pipeline.resources.tracking import Tracking
from finetune_pipeline.spec.model import Task

IN_FLIGHT = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def new_logs_sensor(task: Task) -> dg.SensorDefinition:
    """Asks for a run when enough usable new rows lie under the task's logs and the files have settled."""

    @dg.sensor(
        name=f"{task.name}__new_logs",
        job_name=f"{task.name}__all",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Starts a run of {task.name} when `{task.spec.logs.path}/` holds at least "
        f"{task.spec.logs.min_new_rows} usable new rows.",
    )
    def new_logs(context: dg.SensorEvaluationContext, store: Store) -> dg.RunRequest | dg.SkipReason:
        running = context.instance.get_runs(
            dg.RunsFilter(tags={"finetune/task": task.name}, statuses=IN_FLIGHT), limit=1
        )
        if running:
            return dg.SkipReason(f"run {running[0].run_id[:8]} of this task is going on; looking again after it")
        waits = what_waits(task, store.artifacts())
        if not waits.ready:
            return dg.SkipReason(waits.sentence)
        return dg.RunRequest(
            run_key=waits.digest, tags={"finetune/trigger": "new_logs", "finetune/why": waits.sentence}
        )

    return new_logs


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
