"""All assets of one task."""

from __future__ import annotations

import dagster as dg

from finetune_pipeline.assets import baseline, data, evaluation, production, release, training
from finetune_pipeline.findings import Finding
from finetune_pipeline.orchestration.node import Node
from finetune_pipeline.spec.model import Task

NODES: list[Node] = [
    *production.NODES[:1],
    *data.NODES,
    *baseline.NODES,
    *training.NODES,
    *evaluation.NODES,
    *release.NODES,
    *production.NODES[1:],
]


def task_assets(task: Task) -> list[dg.AssetsDefinition]:
    """Every asset of the task, each with its checks."""
    return [*(node.build(task) for node in NODES), data.split_views(task)]


def task_checks(task: Task) -> list[dg.AssetChecksDefinition]:
    """The checks that are steps of their own."""
    return [release.champion_check(task)]


def broken_task(name: str, findings: list[Finding]) -> dg.AssetsDefinition:
    """Stands in the UI for a task whose spec cannot be used, and says why; the other tasks are not affected."""
    text = "\n\n".join(str(f) for f in findings)

    @dg.asset(
        key=dg.AssetKey([name, "broken_task_spec"]),
        group_name="broken",
        kinds={"yaml"},
        description=f"`{name}/task.yaml` cannot be used:\n\n{text}",
    )
    def broken() -> None:
        raise dg.Failure(f"{name}/task.yaml cannot be used:\n{text}", allow_retries=False)

    return broken
