"""Gold answers of JSON tasks are held against the schema, row by row; corrections of people and of production, too."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from finetune_pipeline.data.answer_rules import form_problems
from finetune_pipeline.data.review import read_decision
from finetune_pipeline.production.log_rows import problems_of
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline_tests.unit.data.raw_rows import validate_row

SCHEMA = {
    "type": "object",
    "properties": {"day": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"}, "guests": {"type": "integer"}},
    "required": ["day", "guests"],
    "additionalProperties": False,
}


def spec(**output: object) -> TaskSpec:
    kind = output or {"kind": "json", "json_schema": SCHEMA}
    return TaskSpec.model_validate(
        {"name": "t", "description": "d", "system_prompt": "Extract.", "output": kind, "data": {"inject": True}}
    )


def findings(answer: str, of: TaskSpec | None = None) -> list[tuple[str, str]]:
    line = json.dumps({"prompt": "A table for four on the first of May", "completion": answer}).encode()
    checked = validate_row(line, of or spec(), "a.jsonl")
    assert (checked.example is None) == any(f.severity == "error" for f in checked.findings)
    return [(f.rule, f.place) for f in checked.findings]


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        ('{"day": "2026-05-01", "guests": 4', "data.answer_not_json"),
        ("```json\n{}\n```", "data.answer_not_json"),
        ('{"day": "1 May", "guests": 4}', "data.answer_schema"),
        ('{"day": "2026-05-01", "guests": 4, "note": ""}', "data.answer_schema"),
        ('{"day": "2026-05-01", "guests": NaN}', "data.answer_not_json"),
    ],
)
def test_a_gold_answer_that_breaks_the_schema_is_quarantined_with_file_and_line(answer: str, rule: str) -> None:
    assert findings(answer) == [(rule, "a.jsonl:7")]


def test_sound_answers_pass() -> None:
    assert findings('{"guests": 4, "day": "2026-05-01"}') == []
    assert findings("it holds a", spec(kind="text", required=["a"])) == []


def test_text_answers_are_held_to_their_form() -> None:
    marked = spec(kind="text", extract=r"#### (\d+)")
    assert [rule for rule, _ in findings("no mark", marked)] == ["data.answer_no_final_answer"]
    both = spec(kind="text", required=["a"], forbidden=["b"])
    assert [rule for rule, _ in findings("it holds b", both)] == ["data.answer_required", "data.answer_forbidden"]


def test_corrections_are_held_to_the_same_form(tmp_path: Path) -> None:
    decision = {"id": "a", "decision": "relabel", "reviewer": "kim", "label": '{"guests": 4}'}
    made, findings = read_decision(decision, spec(), "r.jsonl:1")
    assert made is None and [f.rule for f in findings] == ["data.review_answer_schema"]
    logged = {"id": "1", "timestamp": "2026-05-01T10:00:00Z", "output": "x", "model_version": "1", "input": "x"}
    logged["feedback"] = {"correction": "no JSON"}
    assert [f.rule for f in problems_of(logged, "l.jsonl:1", spec())] == ["log.answer_not_json"]


@pytest.mark.parametrize(
    "output",
    [
        {"kind": "text", "pattern": "(?:.*,){7}[bc]"},
        {"kind": "text", "extract": "((?:.*,){7})[bc]"},
        {"kind": "json", "json_schema": {"type": "string", "pattern": "(?:.*,){7}[bc]"}},
    ],
)
def test_a_pattern_that_takes_too_long_on_an_answer_does_not_match_it(output: dict) -> None:
    began = time.process_time()
    of = spec(**output).output
    answer = "," * 20_000
    (problem,) = form_problems(json.dumps(answer) if output["kind"] == "json" else answer, of)
    assert problem[0] in ("pattern", "no_final_answer", "schema")
    assert time.process_time() - began < 10
