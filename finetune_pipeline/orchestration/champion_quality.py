"""What production says of the champion that serves now."""

from __future__ import annotations

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.production.champion_alarm import Alarm, champion_alarm
from finetune_pipeline.production.ingest import read_logs
from finetune_pipeline.spec.model import Task
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.tracking import Tracking


def champion_quality(task: Task, store: ArtifactStore, tracking: Tracking) -> tuple[int | None, Alarm]:
    """The version that serves, and whether its answers fail more often than those of the version before.

    After a rollback nothing is compared: the version before is the one that was taken out of service.
    """
    aliases = registry.aliases(tracking, task.name)
    serving, before = aliases.get(registry.CHAMPION), aliases.get(registry.PREVIOUS)
    if serving is None:
        return None, Alarm(False, "there is no champion yet", {})
    if before is not None and registry.ROLLED_BACK in registry.version_tags(tracking, task.name, before):
        return serving, Alarm(False, f"version {serving} serves again after a rollback from version {before}", {})
    rows = read_logs(task, store).rows
    return serving, champion_alarm(rows, serving, before, task.spec.drift.false_alarms)
