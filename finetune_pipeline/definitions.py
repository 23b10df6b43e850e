"""Builds Dagster's definitions: one set of assets, checks, jobs, schedules and sensors per task below the data root."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import dagster as dg

from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.orchestration.assets import Prefix, broken_task, task_assets, task_checks, task_jobs
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


def build_definitions(data_root: Path, key_prefix: Sequence[str] = ()) -> dg.Definitions:
    """Build the definitions of every task folder below `data_root`. A task with an invalid spec is shown as broken.

    For a Dagster project of your own, merge them with your definitions. They have no executor, their resources are named
    `finetune_store`, `finetune_tracking` and `finetune_compute`, and their jobs and sensors begin with the task's name.

    Args:
        key_prefix: What the asset keys begin with, before the task's name.
    """
    tasks = (_task_or_why_not(name, folder, tuple(key_prefix)) for name, folder in find_tasks(data_root).items())
    return dg.Definitions.merge(_resources(), dg.Definitions(sensors=mlflow_closers()), *tasks)


def definitions_of(task: Task, key_prefix: Sequence[str] = ()) -> dg.Definitions:
    """Build the definitions of one task, as :func:`build_definitions`. Raises FindingsError if Dagster refuses a value of its
    spec."""
    closers = dg.Definitions(sensors=mlflow_closers(task))
    return dg.Definitions.merge(_resources(), closers, _of_task(task, tuple(key_prefix)))


@cache
def _resources() -> dg.Definitions:
    """Return the resources. Dagster merges the same objects, and refuses equal ones."""
    watch_while_waiting()  # every process that runs steps calls this function
    resources = {"finetune_store": Store(), "finetune_tracking": Tracking(), "finetune_compute": Compute()}
    return dg.Definitions(resources=resources)


def _task_or_why_not(name: str, folder: Path, prefix: Prefix) -> dg.Definitions:
    try:
        return _of_task(load_task(folder), prefix)
    except FindingsError as error:
        return dg.Definitions(assets=[broken_task(name, error.findings, prefix)])


def _of_task(task: Task, prefix: Prefix) -> dg.Definitions:
    try:
        return dg.Definitions(
            assets=task_assets(task, prefix),
            asset_checks=task_checks(task, prefix),
            jobs=(jobs := task_jobs(task, prefix)),
            schedules=[retraining_schedule(task)],
            sensors=[new_logs_sensor(task), drift_sensor(task, jobs), champion_sensor(task, jobs, prefix)],
        )
    except Exception as error:
        message = f"Dagster refuses the task: {type(error).__name__}: {error!s:.500}"
        raise FindingsError([Finding("spec.unusable", "error", "task.yaml", message, "correct the value")]) from error


# light steps share two processes; with every executor, models run in separate child processes
_FORKSERVER = {"preload_modules": ["dagster", "finetune_pipeline.definitions"]}
_EXECUTOR = dg.multi_or_in_process_executor.configured(
    {"multiprocess": {"max_concurrent": 2, "start_method": {"forkserver": _FORKSERVER}}}
)
defs = dg.Definitions.merge(build_definitions(read_settings().data_root), dg.Definitions(executor=_EXECUTOR))
