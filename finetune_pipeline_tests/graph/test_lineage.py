"""The lineage Dagster shows is what the steps read: asked of the running code location, held against each artifact's record."""

from __future__ import annotations

import json
import os

import pytest

from finetune_pipeline.engine.step import Step
from finetune_pipeline.pipeline import STEPS
from finetune_pipeline.settings import read_settings
from finetune_pipeline_tests.graph.project import Project

NOT_ASKED_HERE = {
    ("judge_review", "test_predictions"): "the spec names no judge",
    ("judge_review", "human_review"): "the spec names no judge",
    ("general_ability", "base_ability"): "the spec asks nothing besides the task",
    ("test_predictions", "validation_split"): "no production row is kept to judge",
}
"""Inputs that the finished run had no reason to open: (step, input), and why."""
ORDER_ONLY = {"few_shot_baseline": {"data_quality"}, "adapter": {"advice"}}
"""Edges that only order: the step is not made while a blocking check of the other one fails, and reads nothing of it."""


def ask() -> None:
    """Print every asset's dependencies in the code location of the project that the environment leads to."""
    import dagster as dg
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget

    project = str(read_settings().project)
    os.environ["DAGSTER_HOME"] = project
    target = WorkspaceFileTarget([f"{project}/workspace.yaml"])
    with dg.DagsterInstance.get() as instance, WorkspaceProcessContext(instance, target) as workspace:
        graph = workspace.create_request_context().asset_graph
        found = {k.path[-1]: [p.path[-1] for p in graph.get(k).parent_keys] for k in graph.get_all_asset_keys()}
    print(json.dumps(found))


@pytest.fixture(scope="module")
def lineage(finished: tuple[Project, int, dict]) -> dict[str, list[str]]:
    """Every asset's dependencies, as Dagster's code server tells them."""
    return json.loads(next(line for line in finished[0].call(ask).splitlines() if line.startswith("{")))


@pytest.mark.parametrize("step", [s for s in STEPS if not s.asked_for], ids=lambda step: step.name)
def test_dagster_shows_what_a_step_reads(
    finished: tuple[Project, int, dict], lineage: dict[str, list[str]], step: Step
) -> None:
    if step.view_of:
        assert lineage[step.name] == [step.view_of]
        return
    (manifest,) = (finished[0].home / "artifacts").glob(f"*/{step.name}/*/artifact.json")
    record = json.loads(manifest.read_text())
    shown, opened = set(lineage[step.name]) - set(step.follows), set(record["opened"])
    assert set(step.follows) <= set(lineage[step.name])
    assert opened <= shown, "read, and not shown"
    unread = {name for name in shown - opened if (step.name, name) not in NOT_ASKED_HERE}
    assert unread <= set(step.after), "what decides the version is read"
    assert unread == ORDER_ONLY.get(step.name, set())
