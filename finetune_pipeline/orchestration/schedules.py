"""The retraining schedule."""

from __future__ import annotations

import dagster as dg

from finetune_pipeline.findings import FindingsError
from finetune_pipeline.orchestration.release import nothing_new
from finetune_pipeline.orchestration.runs import whole_run
from finetune_pipeline.orchestration.store import Store
from finetune_pipeline.spec.model import Task
from finetune_pipeline.tracking.tracking import Tracking


def retraining_schedule(task: Task) -> dg.ScheduleDefinition:
    """Runs the whole graph on the spec's cron, and skips with the reason when nothing changed since the champion's data."""

    @dg.schedule(
        name=f"{task.name}__retraining",
        job_name=f"{task.name}__all",
        cron_schedule=task.spec.logs.retrain_cron,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Retrains {task.name} on `{task.spec.logs.retrain_cron}`; skips when nothing changed.",
    )
    def retraining(
        context: dg.ScheduleEvaluationContext, store: Store, tracking: Tracking
    ) -> dg.RunRequest | dg.SkipReason:
        try:
            unchanged = nothing_new(task, store, tracking)
        except FindingsError as error:
            return dg.SkipReason(f"{task.name} cannot be trained: {error}")
        if unchanged:
            return dg.SkipReason(unchanged)
        moment = context.scheduled_execution_time.strftime("%Y-%m-%dT%H:%M")
        return whole_run(
            context.instance, task, moment, "schedule", "data, spec or base changed since the last candidate"
        )

    return retraining
