"""Jobs: the whole graph, and each stage by itself."""

from __future__ import annotations

import dagster as dg

from finetune_pipeline.orchestration.assets import LIVE, key_of
from finetune_pipeline.pipeline import DATA, GROUPS, LOGS, PRODUCTION, STEPS
from finetune_pipeline.spec.model import Task

STAGES = tuple(group for group in GROUPS if group != LOGS)


def stage_assets(stage: str) -> list[str]:
    """Names of the assets a stage's job makes: those of its group, and the logs where its steps read them. For `data` also
    the report on the data's quality and the base model, whose tokens it counts."""
    names = [step.name for step in STEPS if step.group == stage]
    logs = [step.name for step in STEPS if step.group == LOGS]
    read = {name for step in STEPS if step.group == stage for name in step.inputs}
    names = [*(name for name in logs if name in read), *names]
    return [*names, "base_model", "data_quality"] if stage == DATA else names


def _selection(task: Task, stage: str) -> dg.AssetSelection:
    """Assets with their checks; a look at production asks how the champion serves, besides."""
    assets = dg.AssetSelection.assets(*(key_of(task, name) for name in stage_assets(stage)))
    if stage != PRODUCTION:
        return assets
    step, check = LIVE
    return assets | dg.AssetSelection.checks(dg.AssetCheckKey(key_of(task, step), check.name))


def _job(task: Task, stage: str, selection: dg.AssetSelection, text: str) -> dg.UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        f"{task.name}__{stage}",
        selection=selection,
        description=text,
        tags={"finetune/task": task.name, "finetune/stage": stage},
    )


def task_jobs(task: Task) -> list[dg.UnresolvedAssetJobDefinition]:
    """``<task>__all`` and one ``<task>__<stage>`` a stage. Check results are part of their assets' steps."""
    mine = dg.AssetSelection.key_prefixes(task.name)
    return [
        _job(task, "all", mine, "From raw files to a registered model, and the look at production."),
        *(_job(task, stage, _selection(task, stage), f"Only the stage `{stage}`.") for stage in STAGES),
    ]
