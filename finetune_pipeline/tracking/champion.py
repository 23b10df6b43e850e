"""Which model serves, and where its files are."""

from __future__ import annotations

from finetune_pipeline.engine.step import SHARED
from finetune_pipeline.engine.store import ArtifactStore, read_json
from finetune_pipeline.models.identity import served
from finetune_pipeline.serving.model import Champion
from finetune_pipeline.spec.model import Task
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.tracking import Tracking


def present_champion(task: Task, store: ArtifactStore, tracking: Tracking) -> Champion:
    """The model the alias `champion` names, with the system prompt and the answer length it was evaluated with.

    Raises LookupError when there is none, or its files are gone from the artifact store.
    """
    version = registry.champion(tracking, task.name)
    if version is None:
        raise LookupError(
            f"{task.name} has no champion yet: `finetune run {task.name}` makes one when every gate passes"
        )
    tags = registry.version_tags(tracking, task.name, version)
    merged = store.find(task.name, "merged_model", tags["merged_version"])
    base = store.find(SHARED, "base_model", merged.inputs["base_model"]) if merged else None
    released = [a for a in store.all_versions(task.name, "model_version") if int(a.facts["model_version"]) == version]
    if merged is None or base is None or not released:
        gone = "model" if merged is None else "base model" if base is None else "release record"
        raise LookupError(
            f"the {gone} of {task.name} version {version} is gone from {store.root}; restore it, or run "
            f"`finetune run {task.name}`"
        )
    told = read_json(released[-1].path("model_version.json"))
    found = served(merged, base)
    return Champion(
        task.name,
        version,
        found.model,
        found.adapter,
        str(told["system_prompt"]),
        int(told["max_new_tokens"]),
        task.spec.labels,
    )
