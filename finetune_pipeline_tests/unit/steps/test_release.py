"""What the registry is told of a candidate: whether every gate passed follows from the report, and from nothing else."""

from typing import Any

import pytest

from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.step import RunInputs, StepContext, no_tool
from finetune_pipeline.engine.store import Artifact, ArtifactStore, Builder
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps import release
from finetune_pipeline_tests.unit.evaluation.rows import spec


@pytest.mark.parametrize(("passed", "loosened"), [(True, "gates.confidence 0.55 (default 0.95)"), (False, "")])
def test_the_request_says_whether_every_gate_passed_and_what_is_looser(tmp_path, monkeypatch, passed, loosened) -> None:
    def artifact(step: str, facts: dict[str, Any], **inputs: str) -> Artifact:
        (tmp_path / step / "adapter").mkdir(parents=True)
        return Artifact("triage", step, f"{step}-1", tmp_path / step, facts, inputs)

    gates = [{"name": "beats_baseline", "status": "passed" if passed else "failed"}]
    report = {
        "passed": passed,
        "gates": gates,
        "verdict": "v",
        "winner_gates": {gate["name"]: gate["status"] for gate in gates},
        "winner": {"kind": "tuned", "name": "candidate"} if passed else {"kind": None, "name": None},
        "loosened": loosened,
        "models": {"candidate": {"n": 9, "title": "t"}},
    }
    facts = {"evaluation_report": report, "merged_model": {"kind": "merged"}, "base_model": {}}
    inputs = {step: artifact(step, result) for step, result in facts.items()}
    inputs["adapter"] = artifact("adapter", {}, train_split="splits-1")
    requests: list[dict[str, Any]] = []
    monkeypatch.setattr(release, "_card", lambda context: "# Card")
    out = tmp_path / "out"
    out.mkdir()
    task, outside = Task(spec=spec(), folder=tmp_path), RunInputs("r", "v", "l", "c", {"kind": "local"})
    builder, store = Builder(out, out / "work"), ArtifactStore(tmp_path / "store")

    def registry(request: Any) -> dict[str, Any]:
        requests.append(dict(request))
        return {"model_version": 1, "promoted": passed}

    result = release.make_model_version(StepContext(task, outside, inputs, builder, store, no_tool, registry))
    (request,) = requests
    assert request["loosened"] == (loosened or "none")
    assert request["gates_passed"] is result["gates_passed"] is passed
    assert (request["winner_kind"], request["winner_name"]) == (("tuned", "candidate") if passed else (None, None))
    assert request["gates"] == {"beats_baseline": gates[0]["status"]} and request["forgotten"] is False
    assert (request["dataset_version"], request["evaluation_version"]) == ("splits-1", "evaluation_report-1")
    assert read_json(out / "model_version.json")["gates_passed"] is passed
    assert (out / "README.md").read_text() == "# Card"
