"""The sensor that watches the champion against the one before it."""

import dagster as dg

from finetune_pipeline.production.champion_alarm import champion_alarm
from finetune_pipeline.production.ingest import read_logs
from finetune_pipeline.resources.store import Store
from finetune_pipeline.resources.tracking import Tracking
from finetune_pipeline.spec.model import Task


def champion_sensor(task: Task) -> dg.SensorDefinition:
    """Raises an alarm where the champion serves worse than the one before, and rolls back where the spec allows it."""

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
        from finetune_pipeline.resources import registry

        aliases = registry.aliases(tracking, task.name)
        serving, before = aliases.get(registry.CHAMPION), aliases.get(registry.PREVIOUS)
        if serving is None:
            return dg.SkipReason("there is no champion yet")
        if before is not None and registry.ROLLED_BACK in registry.version_tags(tracking, task.name, before):
            return dg.SkipReason(f"version {serving} serves again after a rollback from version {before}")
        alarm = champion_alarm(read_logs(task, store.artifacts()).rows, serving, before, task.spec.drift.false_alarms)
        if not alarm.raised:
            return dg.SkipReason(alarm.sentence)
        done = f"roll back with `finetune rollback {task.name}`"
        if task.spec.retraining.rollback:
            now = registry.rollback(tracking, task.name, f"champion alarm: {alarm.sentence}")
            done = f"rolled back to version {now}"
        told = f"{alarm.sentence}; {done}"
        context.log.error(told)
        if context.cursor == str(serving):  # shown in the asset's history already
            return dg.SkipReason(f"ALARM: {told}")
        event = dg.AssetObservation(dg.AssetKey([task.name, "model_version"]), description=f"champion alarm: {told}")
        return dg.SensorResult(skip_reason=f"ALARM: {told}", asset_events=[event], cursor=str(serving))

    return champion
