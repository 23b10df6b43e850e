"""What a task's state is, asked without running anything."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg

from finetune_pipeline.engine.step import RunInputs
from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.orchestration.release import present_inputs
from finetune_pipeline.orchestration.store import Store
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.spec.model import Task
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.tracking import Tracking


@dataclass
class Project:
    """A task with its stores: the world as it is, and the versions that follow from it."""

    task: Task
    store: ArtifactStore
    tracking: Tracking
    world: RunInputs
    versions: dict[str, str]
    serving: int | None

    def artifacts(self) -> dict[str, Artifact | None]:
        return PIPELINE.artifacts(self.task, self.world, self.store)


def open_project(task: Task) -> Project:
    """Look at the world and at the registry. Raises FindingsError where raw files or the base model are missing."""
    store, tracking = Store(), Tracking()
    tracking.prepare()
    world = present_inputs(task, store, tracking)
    artifacts = store.artifacts()
    return Project(
        task,
        artifacts,
        tracking,
        world,
        PIPELINE.versions(task, world, artifacts),
        registry.champion(tracking, task.name),
    )


def unfinished(project: Project, instance: dg.DagsterInstance) -> list[str]:
    """Names of assets that are missing, or that Dagster's event log does not know in their present version."""
    made = project.artifacts()
    missing = []
    for asset in PIPELINE.steps:
        event = instance.get_latest_materialization_event(dg.AssetKey([project.task.name, asset]))
        told = event.asset_materialization.tags if event and event.asset_materialization else None
        known = (told or {}).get("dagster/data_version") == project.versions[asset]
        if made[asset] is None or not known:
            missing.append(asset)
    registered = made["model_version"]
    if registered is not None and "model_version" not in missing:
        try:
            registry.version_tags(project.tracking, project.task.name, int(registered.facts["model_version"]))
        except ValueError:  # MLflow's store was removed or exchanged: register again
            missing.append("model_version")
    return missing
