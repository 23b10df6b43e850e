from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune_pipeline.findings import FindingsError
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline.stages.training import CARRIED_THROUGH, make_training_plan
from finetune_pipeline_tests.tiny_model import make_tiny_model

SPEC = {
    "name": "demo",
    "description": "d",
    "system_prompt": "yes no",
    "output": {"kind": "labels", "labels": ["yes", "no"]},
}


@pytest.mark.parametrize("method", ["full", "prefix", "prompt"])
def test_a_method_the_graph_cannot_finish_is_refused_before_anything_is_read(method: str) -> None:
    spec = TaskSpec.model_validate({**SPEC, "training": {"method": method}})
    with pytest.raises(FindingsError, match="not evaluated and released") as error:
        make_training_plan(SimpleNamespace(spec=spec))  # type: ignore[arg-type]
    (finding,) = error.value.findings
    assert finding.rule == "spec.method_in_graph" and all(name in finding.fix for name in CARRIED_THROUGH)


@pytest.mark.parametrize("method", CARRIED_THROUGH)
def test_the_others_go_on_to_read_their_inputs(method: str, tmp_path: Path) -> None:
    spec = TaskSpec.model_validate({**SPEC, "training": {"method": method}})
    with pytest.raises(KeyError, match="base_model"):
        make_training_plan(SimpleNamespace(spec=spec, task=SimpleNamespace(folder=tmp_path), inputs={}))  # type: ignore[arg-type]


def test_the_plan_refuses_what_the_bases_own_files_rule_out(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    spec = TaskSpec.model_validate({**SPEC, "training": {"lora": {"target_modules": ["c_attn"]}, "epochs": 5}})
    work = SimpleNamespace(
        spec=spec, task=SimpleNamespace(folder=tmp_path), inputs={"base_model": SimpleNamespace(folder=base)}
    )
    with pytest.raises(FindingsError) as error:
        make_training_plan(work)  # type: ignore[arg-type]
    (finding,) = error.value.findings  # five epochs are a warning
    assert finding.rule == "training.target_modules" and "q_proj" in finding.fix
