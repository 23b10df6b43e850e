"""The steps of the training stage that need no model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_pipeline.engine.files import write_json
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.planning.throughput import kind_of_training, read_rates
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline.steps.training import make_adapter, make_training_plan
from finetune_pipeline_tests.tiny_model import LABELS, SYSTEM, make_tiny_model, write_tiny_examples

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


def test_the_next_plan_knows_the_speed_of_a_training(tmp_path: Path) -> None:
    spec = TaskSpec.model_validate({**SPEC, "training": {"method": "lora", "precision": "float32"}})
    plan = {"phases": [{"method": "lora", "steps": 4, "tokens": 8000}]}

    def launch(job: dict[str, Any]) -> dict[str, Any]:
        write_json(tmp_path / "measured.json", {"steps_run": 4, "train_seconds": 2.0})
        return {"precision": "float32"}

    for split in ("train", "validation"):
        (tmp_path / "splits" / split).mkdir(parents=True)
        write_tiny_examples(tmp_path / "splits" / split / "examples.jsonl", range(12))
    splits, base = SimpleNamespace(folder=tmp_path / "splits"), SimpleNamespace(folder=tmp_path / "base")
    inputs = {"train_split": splits, "validation_split": splits, "base_model": base}
    inputs["training_plan"] = SimpleNamespace(facts=plan)
    work = context(tmp_path, inputs, spec=spec, builder=SimpleNamespace(work=tmp_path / "work"), launch=launch)
    assert make_adapter(work) == {"precision": "float32"}
    (rate,) = read_rates(tmp_path / "home").items()
    assert rate[0] == kind_of_training(spec.base_model, "lora", "float32") and rate[1][0] == 4000
