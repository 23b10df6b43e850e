"""What the registry is told of a candidate: whether every gate passed follows from the report, and from nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from finetune_pipeline.data.examples import SPLIT_FILES
from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.step import RunInputs, StepContext, no_tool
from finetune_pipeline.engine.store import Artifact, ArtifactStore, Builder
from finetune_pipeline.evaluation.calibration import (
    AutomationPromise,
    Calibration,
    ReleasedProbability,
    released_probability,
)
from finetune_pipeline.evaluation.stored_prompt import read_stored_prompt
from finetune_pipeline.jobs import Prompt
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps import release
from finetune_pipeline_tests.model_facts import merged
from finetune_pipeline_tests.unit.evaluation.fake_run import report_facts
from finetune_pipeline_tests.unit.evaluation.rows import spec
from finetune_pipeline_tests.unit.production.releases import released_facts

MEASURED = ReleasedProbability(
    labels=["bug", "billing", "other"],
    calibration=Calibration(method="platt", slope=0.8, intercept=-0.1, rows=80),
    promise=AutomationPromise(threshold=0.97, max_error=0.02),
)


@pytest.mark.parametrize(("passed", "loosened"), [(True, "gates.confidence 0.55 (default 0.95)"), (False, "")])
def test_the_request_says_whether_every_gate_passed_and_what_is_looser(tmp_path, monkeypatch, passed, loosened) -> None:
    def artifact(step: str, facts: dict[str, Any], **inputs: str) -> Artifact:
        (tmp_path / step / "adapter").mkdir(parents=True)
        return Artifact("triage", step, f"{step}-1", tmp_path / step, facts, inputs)

    gates = {"beats_baseline": "passed" if passed else "failed"}
    report = report_facts(
        passed=passed,
        winner_gates=gates,
        winner={"kind": "tuned", "name": "candidate"} if passed else {},
        loosened=loosened,
        probabilities={"candidate": to_builtins(MEASURED)},
    )
    facts = {"evaluation_report": report, "merged_model": merged(), "base_model": {}}
    inputs = {step: artifact(step, result) for step, result in facts.items()}
    inputs["adapter"] = artifact("adapter", {}, train_split="splits-1")
    requests: list[dict[str, Any]] = []
    monkeypatch.setattr(release, "_card", lambda context: "# Card")
    out = tmp_path / "out"
    out.mkdir()
    task, outside = Task(spec=spec(), folder=tmp_path), RunInputs("r", "v", "l", "c", {"kind": "local"})
    builder, store = Builder(out, out / "work"), ArtifactStore(tmp_path / "store")

    def registry(request: Any) -> dict[str, Any]:
        requests.append(request.to_json())
        return released_facts(1, passed)

    result = release.make_model_version(StepContext(task, outside, inputs, builder, store, no_tool, registry))
    (request,) = requests
    assert request["loosened"] == (loosened or "none")
    promise = released_probability(read_json(out / "model_version.json"))
    assert promise is not None and promise == replace(MEASURED, digest=promise.digest) and len(promise.digest) == 64
    assert request["gates_passed"] is result.gates_passed is passed
    assert (request["winner_kind"], request["winner_name"]) == (("tuned", "candidate") if passed else (None, None))
    assert request["gates"] == gates and request["forgotten"] is False
    assert (request["dataset_version"], request["evaluation_version"]) == ("splits-1", "evaluation_report-1")
    assert read_json(out / "model_version.json")["gates_passed"] is passed
    assert (out / "README.md").read_text() == "# Card"


@pytest.mark.parametrize(
    ("kind", "name", "prompt", "files", "holds_rows"),
    [
        ("simple", "linear", None, {"fitted.json"}, True),
        ("prompt", "zero_shot", {}, {"prompt.json"}, False),
        ("prompt", "2_shot", {"shots": 1, "turns": [{"role": "user", "content": "q"}]}, {"prompt.json"}, True),
        ("prompt", "2_nearest", {"retrieved": 2}, {"prompt.json", "train.jsonl"}, True),
        ("prompt", "2_documents", {"documents": 2}, {"prompt.json", "passages.jsonl"}, False),
    ],
)
def test_the_files_of_a_simple_model_or_a_prompt_are_part_of_its_release(
    tmp_path, monkeypatch, kind: str, name: str, prompt: dict[str, Any] | None, files: set[str], holds_rows: bool
) -> None:
    winner = {"kind": kind, "name": name, "mode": "restricted" if prompt is not None else None}
    values = {"candidate": 0.1, "simple_linear": 0.8, "base": 0.6, "base_restricted": 0.7}
    models = {row: {"title": row, "set": "test", "value": value} for row, value in values.items()}
    report = report_facts(winner=winner, models=models, probabilities={})
    facts = {"evaluation_report": report, "merged_model": merged()}
    names = ("evaluation_report", "merged_model", "base_model", "few_shot_baseline", "train_split", "adapter")
    inputs = {
        step: Artifact("triage", step, f"{step}-1", tmp_path / step, facts.get(step, {}), {"train_split": "splits-1"})
        for step in names
    }
    for file, text in {
        "few_shot_baseline/simple_models/linear/fitted.json": "{}",
        "few_shot_baseline/prompts.json": json.dumps({name: prompt}),
        "few_shot_baseline/passages.jsonl": "",
        f"train_split/{SPLIT_FILES['train']}": "",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    monkeypatch.setattr(release, "_shipped_card", lambda context, winner, files: "# Card")
    out, requests = tmp_path / "out", []
    out.mkdir()
    task, outside = Task(spec=spec(), folder=tmp_path), RunInputs("r", "v", "l", "c", {"kind": "local"})
    builder, store = Builder(out, out / "work"), ArtifactStore(tmp_path / "store")

    def register(request: Any) -> dict[str, Any]:
        requests.append({**request.to_json(), "stored": {p.name for p in Path(request.shipped).iterdir()}})
        return released_facts(1)

    result = release.make_model_version(StepContext(task, outside, inputs, builder, store, no_tool, register))
    (request,) = requests
    assert request["scores"] == {"value": 0.8 if kind == "simple" else 0.7}, "its own score, not the fine-tuned model's"
    assert request["stored"] == set(request["files"]) == files and request["gates_passed"] is True
    assert (result.winner_kind, result.winner_name, result.holds_rows) == (kind, name, holds_rows)
    record = read_json(out / "model_version.json")
    assert record["files"] == request["files"] and "shipped" not in record, "folders may move"
    if prompt is not None:
        stored = read_stored_prompt(out / "shipped")
        assert (stored.prompt, stored.mode, stored.labels) == (Prompt(**prompt), "restricted", spec().labels)
