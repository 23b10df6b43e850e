"""Rules about the output: each fires on its fault, and none on a sound spec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import finetune_pipeline.evaluation.metrics  # noqa: F401 - fills the registry of metrics
from finetune_pipeline.spec import check_task

SCHEMA = {"type": "object", "properties": {"items": {"type": "array"}, "name": {"type": "string"}}}
JSON = {"kind": "json", "json_schema": SCHEMA}
SOUND: list[dict[str, Any]] = [
    JSON | {"unordered": ["items"]},
    {"kind": "json", "json_schema": "schema.json"},
    {"kind": "text", "extract": r"#### (\d+)", "pattern": ".*", "required": ["a"], "forbidden": ["b"], "max_chars": 9},
]


def write(folder: Path, output: dict[str, Any], **changes: Any) -> Path:
    task = folder / "orders"
    task.mkdir(exist_ok=True)
    (task / "schema.json").write_text(json.dumps(SCHEMA))
    (task / "broken.json").write_text("{")
    spec = {"name": "orders", "description": "x", "system_prompt": "End with ####.", "output": output, **changes}
    (task / "task.yaml").write_text(yaml.safe_dump(spec))
    return task


def test_a_sound_output_has_no_finding(tmp_path: Path) -> None:
    for output in SOUND:
        task, findings = check_task(write(tmp_path, output))
        assert findings == [] and task is not None


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    (JSON | {"json_schema": "none.json"}, "json_schema", "No such file"),
    (JSON | {"json_schema": "broken.json"}, "json_schema", "is not JSON"),
    (JSON | {"json_schema": "../schema.json"}, "json_schema", "outside the task folder"),
    (JSON | {"json_schema": {"type": "objekt"}}, "json_schema", "no valid schema"),
    (JSON | {"json_schema": {"$ref": "http://x.org/a"}}, "json_schema", "another document"),
    (JSON | {"unordered": ["name"]}, "unordered", "'name' is not a list"),
    ({"kind": "text", "pattern": "("}, "patterns", "no regular expression"),
    ({"kind": "text", "extract": r"#### \d+"}, "patterns", "has 0 groups"),
    ({"kind": "text", "extract": r"Answer: (\d+)"}, "final_answer", "'Answer:'"),
    ({"kind": "text", "required": ["ab"], "forbidden": ["b"]}, "answer_strings", "'ab' is required"),
    (JSON | {"max_length": 3}, "unknown_key", "unknown key 'max_length'"),
]


@pytest.mark.parametrize(("output", "rule", "message"), FAULTS)
def test_every_rule_fires(tmp_path: Path, output: dict[str, Any], rule: str, message: str) -> None:
    _, findings = check_task(write(tmp_path, output))
    assert [(f.rule, message in f.message) for f in findings] == [(f"spec.{rule}", True)]


def test_a_metric_must_fit_the_output(tmp_path: Path) -> None:
    _, findings = check_task(write(tmp_path, SOUND[0], gates={"metric": "rougeLsum"}))
    assert [f.rule for f in findings] == ["spec.metric"]
    assert "exact, micro_f1" in findings[0].fix
    _, findings = check_task(write(tmp_path, SOUND[0], gates={"more_metrics": ["micro_f2"]}))
    assert [f.message for f in findings] == ["unknown metric 'micro_f2'"]
    task, findings = check_task(write(tmp_path, SOUND[0], gates={"metric": "micro_f1"}))
    assert findings == [] and task is not None and task.spec.metric == "micro_f1"
