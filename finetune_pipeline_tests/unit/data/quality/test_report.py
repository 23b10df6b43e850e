"""The whole report: complete, plain JSON, deterministic, and with a verdict that follows from its parts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from finetune_pipeline.data.quality.report import PARTS, data_quality
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.data.quality.makers import LABELS, dealt, make_spec, requests

ROWS = requests(600)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base"))


def test_a_clean_set_passes_throughout(base: Path) -> None:
    told = data_quality(ROWS, dealt(ROWS), {}, {}, make_spec(LABELS), base)
    assert {name: told[name]["passed"] for name in PARTS} == dict.fromkeys(PARTS, True)
    assert told["passed"] and not told["blocked_by"] and not told["findings"] and told["rows"] == 600
    for name in PARTS:
        assert told[name]["message"] and isinstance(told[name]["blocking"], bool)
    assert json.loads(json.dumps(told)) == told
    assert told == data_quality(iter(ROWS), dealt(ROWS), {}, {}, make_spec(LABELS), base)


def test_what_stops_and_what_does_not() -> None:
    rows = [replace(e, origin="synthetic") if i < 50 else e for i, e in enumerate(ROWS)]
    told = data_quality(rows, dealt(rows), {}, {}, make_spec(LABELS, max_imbalance=1, min_examples=601))
    assert told["blocked_by"] == ["size", "synthetic"] and not told["passed"]
    assert [f["rule"] for f in told["findings"]] == ["quality.too_few", "quality.synthetic_unreviewed"]


def test_a_dropped_row_counts_as_rejected_although_it_is_gone() -> None:
    before = [replace(e, origin="synthetic") if i < 20 else e for i, e in enumerate(ROWS)]
    decisions = {e.id: "drop" if i < 3 else "keep" for i, e in enumerate(before[:20])}
    after = before[3:]
    told = data_quality(after, dealt(after), {}, decisions, make_spec(LABELS), unreviewed=before)
    assert told["synthetic"]["rows"] == 20 and told["synthetic"]["rejected"] == 3
    assert told["synthetic"]["verdict"] == "accepted" and told["rows"] == 597
    assert told["origins"]["origins"] == {"human": 580, "synthetic": 17}
