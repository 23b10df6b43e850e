"""Builds Dagster's definitions: one set of assets, checks, jobs, schedules and sensors per task below the data root."""

from pathlib import Path

import dagster as dg

from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.orchestration.assets import broken_task, task_assets, task_checks, task_jobs
from finetune_pipeline.orchestration.dagster_internals import watch_while_waiting
from finetune_pipeline.orchestration.resources import Compute, Store
from finetune_pipeline.orchestration.sensors import (
    champion_sensor,
    drift_sensor,
    mlflow_closers,
    new_logs_sensor,
    retraining_schedule,
)
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import find_tasks, load_task
from finetune_pipeline.spec.model import Task
from finetune_pipeline.tracking.tracking import Tracking


def build_definitions(data_root: Path) -> dg.Definitions:
    """Build the definitions of every task folder below `data_root`. A task with an invalid spec is shown as broken."""
    return dg.Definitions.merge(
        _shared(), *(_task_or_why_not(name, folder) for name, folder in find_tasks(data_root).items())
    )


def definitions_of(task: Task) -> dg.Definitions:
    """Build the definitions of one task. Raises FindingsError if Dagster refuses a value of its spec."""
    return dg.Definitions.merge(_shared(), _of_task(task))


def _shared() -> dg.Definitions:
    watch_while_waiting()  # every process that runs steps calls this function
    return dg.Definitions(
        sensors=mlflow_closers(),
        resources={"store": Store(), "tracking": Tracking(), "compute": Compute()},
        # light steps share two processes; with every executor, models run in separate child processes
        executor=dg.multi_or_in_process_executor.configured(
            {
                "multiprocess": {
                    "max_concurrent": 2,
                    "start_method": {"forkserver": {"preload_modules": ["dagster", "finetune_pipeline.definitions"]}},
                }
            }
        ),
    )


def _task_or_why_not(name: str, folder: Path) -> dg.Definitions:
    try:
        return _of_task(load_task(folder))
    except FindingsError as error:
        return dg.Definitions(assets=[broken_task(name, error.findings)])


def _of_task(task: Task) -> dg.Definitions:
    try:
        return dg.Definitions(
            assets=task_assets(task),
            asset_checks=task_checks(task),
            jobs=(jobs := task_jobs(task)),
            schedules=[retraining_schedule(task)],
            sensors=[new_logs_sensor(task), drift_sensor(task, jobs), champion_sensor(task)],
        )
    except Exception as error:
        message = f"Dagster refuses the task: {type(error).__name__}: {error!s:.500}"
        raise FindingsError([Finding("spec.unusable", "error", "task.yaml", message, "correct the value")]) from error


defs = build_definitions(read_settings().data_root)
