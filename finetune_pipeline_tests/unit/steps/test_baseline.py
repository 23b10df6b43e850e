"""The baseline stage: what makes it anew and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_pipeline.engine.step import RunInputs
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.spec.model import Task
from finetune_pipeline_tests.unit.evaluation.rows import spec

WORLD = RunInputs("r", "v", "l", "c", {})


def changed(tmp_path: Path, **changes: Any) -> set[str]:
    """Steps whose version differs from that of the plain spec."""
    store = ArtifactStore(tmp_path / "store")
    before, after = (PIPELINE.versions(Task(spec=s, folder=tmp_path), WORLD, store) for s in (spec(), spec(**changes)))
    return {name for name in before if before[name] != after[name]}


def test_another_gate_or_ceiling_is_judged_anew_without_asking_the_model_again(tmp_path: Path) -> None:
    for change in ({"gates": {"min_gain": 0.01}}, {"gates": {"wanted_gain": 0.1}}, {"baseline": {"ceiling": 0.8}}):
        found = changed(tmp_path, **change)
        assert "advice" in found
        assert not {"few_shot_baseline", "adapter", "merged_model", "test_predictions"} & found


def test_another_way_to_prompt_asks_the_model_again_but_trains_nothing_anew(tmp_path: Path) -> None:
    for change in ({"retrieved": 5}, {"prompts": ["Say bug, billing or other."]}, {"rows": 50}):
        found = changed(tmp_path, baseline=change)
        assert {"few_shot_baseline", "advice", "test_predictions", "evaluation_report"} <= found
        assert not {"splits", "adapter", "merged_model"} & found
