"""The retraining schedule."""

from __future__ import annotations

import dagster as dg

from finetune_pipeline.spec.model import Task


def retraining_schedule(task: Task) -> dg.ScheduleDefinition:
    """Runs the whole graph on the spec's cron; where nothing changed the run finds everything made and ends at once."""
    return dg.ScheduleDefinition(
        name=f"{task.name}__retraining",
        job_name=f"{task.name}__all",
        cron_schedule=task.spec.logs.retrain_cron,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        tags={"finetune/trigger": "schedule"},
        description=f"Retrains {task.name} on `{task.spec.logs.retrain_cron}`; does no work when nothing changed.",
    )
