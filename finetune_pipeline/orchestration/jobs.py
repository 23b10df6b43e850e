"""Jobs: the whole graph, and each stage by itself."""

from __future__ import annotations

import dagster as dg

from finetune_pipeline.assets.data import VIEWS
from finetune_pipeline.checks.all import CHECKS
from finetune_pipeline.orchestration.assets import NODES
from finetune_pipeline.spec.model import Task

STAGES = ("data", "baseline", "training", "evaluation", "release", "production")


def stage_assets(stage: str) -> list[str]:
    """Names of the assets a stage's job makes: those of its group; for `data` also the logs that corrections come from,
    and the base model, whose tokens its report counts."""
    names = [node.name for node in NODES if node.group == stage]
    return ["production_logs", "base_model", *names, *VIEWS] if stage == "data" else names


def _selection(task: Task, stage: str) -> dg.AssetSelection:
    """Assets with their checks; a look at production asks how the champion serves, besides."""
    assets = dg.AssetSelection.assets(*(dg.AssetKey([task.name, name]) for name in stage_assets(stage)))
    if stage != "production":
        return assets
    live = (dg.AssetCheckKey(dg.AssetKey([task.name, c.step]), c.name) for c in CHECKS if c.live)
    return assets | dg.AssetSelection.checks(*live)


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
