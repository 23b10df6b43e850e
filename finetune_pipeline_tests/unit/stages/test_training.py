from __future__ import annotations

from types import SimpleNamespace

import pytest

from finetune_pipeline.findings import FindingsError
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline.stages.training import CARRIED_THROUGH, make_training_plan

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
def test_the_others_go_on_to_read_their_inputs(method: str) -> None:
    spec = TaskSpec.model_validate({**SPEC, "training": {"method": method}})
    with pytest.raises(KeyError, match="splits"):
        make_training_plan(SimpleNamespace(spec=spec, inputs={}))  # type: ignore[arg-type]
