"""The assets of several tasks as Dagster groups them."""

from __future__ import annotations

from pathlib import Path

from finetune_pipeline.orchestration.assets import task_assets
from finetune_pipeline.pipeline import GROUPS, STEPS
from finetune_pipeline.spec.model import Task
from finetune_pipeline_tests.unit.evaluation.rows import spec


def test_each_task_has_its_own_groups_without_a_cycle_and_assets_carry_their_code_version() -> None:
    assets = [a for name in ("triage", "orders") for a in task_assets(Task(spec=spec(name=name), folder=Path(name)))]
    specs = {of.key: of for asset in assets for of in asset.specs}
    assert {of.group_name for of in specs.values()} == {f"{t}__{g}" for t in ("triage", "orders") for g in GROUPS}
    order = {f"{task}__{group}": i for task in ("triage", "orders") for i, group in enumerate(GROUPS)}
    for of in specs.values():
        assert of.group_name is not None and of.group_name.startswith(f"{of.key.path[0]}__")
        assert all(order[specs[d.asset_key].group_name or ""] <= order[of.group_name] for d in of.deps), of.key
    versions = {step.name: step.code_version for step in STEPS}
    assert {key.path[-1]: of.code_version for key, of in specs.items()} == versions
