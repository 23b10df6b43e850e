"""The steps of the training stage that need no model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline.steps.training import make_training_plan
from finetune_pipeline_tests.tiny_model import LABELS, SYSTEM, make_tiny_model

SPEC = {"name": "demo", "description": "d", "system_prompt": SYSTEM, "output": {"kind": "labels", "labels": LABELS}}


def context(folder: Path, inputs: dict[str, Any], **more: Any) -> Any:
    task, store = SimpleNamespace(folder=folder), ArtifactStore(folder / "home" / "artifacts")
    return SimpleNamespace(task=task, inputs=inputs, out=folder, store=store, **more)


def test_the_plan_refuses_what_the_bases_own_files_rule_out(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    spec = TaskSpec.model_validate({**SPEC, "training": {"lora": {"target_modules": ["c_attn"]}, "epochs": 5}})
    with pytest.raises(FindingsError) as error:
        make_training_plan(context(tmp_path, {"base_model": SimpleNamespace(folder=base)}, spec=spec))
    (finding,) = error.value.findings  # five epochs are a warning
    assert finding.rule == "training.target_modules" and "q_proj" in finding.fix
