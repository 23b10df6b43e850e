"""RELEASE: the registered model, and the check of the one that serves."""

import dagster as dg

from finetune_pipeline.orchestration.champion_quality import champion_quality
from finetune_pipeline.orchestration.node import Node, check_result
from finetune_pipeline.orchestration.store import Store
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.production_checks import CHAMPION_SERVES, of_alarm
from finetune_pipeline.tracking.tracking import Tracking

GROUP = "release"
NODES = [
    Node(
        "model_version",
        ["evaluation_report", "merged_model"],
        "Registered in MLflow as `candidate`; `champion` moves only if every gate passes. Ties do not pass.",
        ["mlflow"],
        GROUP,
    ),
]


def champion_check(task: Task) -> dg.AssetChecksDefinition:
    """`champion_serves_well` of `model_version`: asked in every whole run and at every look at production, and told by the
    sensor `<task>__champion` as soon as it changes."""
    check = CHAMPION_SERVES

    @dg.asset_check(
        asset=dg.AssetKey([task.name, check.step]), name=check.name, description=check.description, blocking=False
    )
    def champion_serves_well(store: Store, tracking: Tracking) -> dg.AssetCheckResult:
        _, alarm = champion_quality(task, store.artifacts(), tracking)
        return check_result(check, of_alarm(alarm), task.spec)

    return champion_serves_well
