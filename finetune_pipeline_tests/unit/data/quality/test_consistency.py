"""Each dimension finds its planted stray, names the row, and passes a clean set."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_pipeline.data.quality.consistency import consistency
from finetune_pipeline_tests.unit.data.quality.makers import answers, make_spec

PROSE = [f"The answer to number {i} is that it depends on the weather." for i in range(60)]
JSON = [json.dumps({"city": f"Town {i}", "day_of_week": "monday", "count": i}) for i in range(60)]


def dimension(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(d for d in report["dimensions"] if d["name"] == name)


def with_stray(texts: list[str], stray: str, at: int = 41) -> list[str]:
    return [*texts[:at], stray, *texts[at + 1 :]]


def test_a_clean_set_passes() -> None:
    report = consistency(answers(JSON), make_spec())
    assert report["passed"] and not report["findings"] and "consistent" in report["message"]
    assert {d["name"]: d["verdict"] for d in report["dimensions"]} == {"json": "uniform", "json_keys": "uniform"}


@pytest.mark.parametrize(
    ("name", "texts", "stray"),
    [
        ("answer_spelling", ["yes", "no"] * 30, "Yes."),
        ("json", JSON, "It is Town 41, on a monday."),
        ("json", JSON, JSON[41][:-3]),
        ("json", JSON, JSON[41].replace('"', "'")),
        ("json_keys", JSON, '{"city": "T", "count": 1}'),
        ("json_type:count", JSON, '{"city": "T", "day_of_week": "m", "count": "1"}'),
    ],
)
def test_a_stray_is_found_and_named(name: str, texts: list[str], stray: str) -> None:
    report = consistency(answers(with_stray(texts, stray)), make_spec())
    judged_dimension = dimension(report, name)
    assert not report["passed"] and judged_dimension["verdict"] == "stray" and not judged_dimension["passed"]
    assert [m["count"] for m in judged_dimension["minority"]] == [1]
    assert judged_dimension["minority"][0]["rows"][0]["place"] == "raw/a.jsonl:42"
    finding = next(f for f in report["findings"] if f["rule"] == f"quality.consistency.{name.partition(':')[0]}")
    assert finding["severity"] == "warning" and finding["place"] == "raw/a.jsonl:42"


def with_other_keys(every: int) -> list[str]:
    return [t if i % every else t.replace("count", "number") for i, t in enumerate(JSON)]


def test_json_without_one_set_of_keys_fails_and_the_threshold_of_the_spec_decides() -> None:
    mixed = consistency(answers(with_other_keys(2)), make_spec())
    assert dimension(mixed, "json_keys")["verdict"] == "mixed" and not mixed["passed"]
    texts = with_other_keys(7)  # 15%
    assert dimension(consistency(answers(texts), make_spec()), "json_keys")["verdict"] == "mixed"
    judged_dimension = dimension(consistency(answers(texts), make_spec(consistency={"max_minority": 0.2})), "json_keys")
    assert judged_dimension["verdict"] == "stray" and judged_dimension["minority"][0]["count"] == 9


def test_few_answers_are_not_judged() -> None:
    report = consistency(answers(with_stray(JSON[:15], "{}", 3)), make_spec())
    assert dimension(report, "json_keys")["verdict"] == "few" and report["passed"]
