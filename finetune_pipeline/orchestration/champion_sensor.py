"""The sensor that watches the champion against the one before it."""

import dagster as dg

from finetune_pipeline.orchestration.assets import check_event
from finetune_pipeline.orchestration.champion_quality import champion_quality
from finetune_pipeline.orchestration.store import Store
from finetune_pipeline.production.champion_alarm import Alarm
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.production_checks import champion_serves_well, of_alarm
from finetune_pipeline.tracking.tracking import Tracking

Event = dg.AssetObservation | dg.AssetMaterialization | dg.AssetCheckEvaluation


def champion_sensor(task: Task) -> dg.SensorDefinition:
    """Raises an alarm where the champion serves worse than the one before, and rolls back where the spec allows it.

    The asset `model_version` shows it: as an observation, and as its check `champion_serves_well`, which passes again when
    another version serves.
    """

    @dg.sensor(
        name=f"{task.name}__champion",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Compares what people say of the answers of {task.name}'s champion with those of the one before; "
        + ("rolls back by itself." if task.spec.retraining.rollback else "tells, and leaves the rollback to people."),
    )
    def champion(
        context: dg.SensorEvaluationContext, store: Store, tracking: Tracking
    ) -> dg.SensorResult | dg.SkipReason:
        from finetune_pipeline.tracking import registry

        serving, alarm = champion_quality(task, store.artifacts(), tracking)
        if not alarm.raised:
            if not context.cursor:
                return dg.SkipReason(alarm.sentence)
            return dg.SensorResult(skip_reason=alarm.sentence, asset_events=[_evaluation(task, alarm)], cursor="")
        done = f"roll back with `finetune rollback {task.name}`"
        if task.spec.retraining.rollback:
            now = registry.rollback(tracking, task.name, f"champion alarm: {alarm.sentence}")
            done = f"rolled back to version {now}"
        told = f"{alarm.sentence}; {done}"
        context.log.error(told)
        if context.cursor == str(serving):  # shown in the asset's history already
            return dg.SkipReason(f"ALARM: {told}")
        event = dg.AssetObservation(dg.AssetKey([task.name, "model_version"]), description=f"champion alarm: {told}")
        events: list[Event] = [event, _evaluation(task, Alarm(True, told, alarm.figures))]
        return dg.SensorResult(skip_reason=f"ALARM: {told}", asset_events=events, cursor=str(serving))

    return champion


def _evaluation(task: Task, alarm: Alarm) -> dg.AssetCheckEvaluation:
    return check_event(task, "model_version", champion_serves_well, of_alarm(alarm))
