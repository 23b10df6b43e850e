"""The share passed on, from a stored report and from logs of service."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from finetune_pipeline.engine.files import write_json
from finetune_pipeline.engine.store import ArtifactStore, Builder
from finetune_pipeline.evaluation.calibration import PROBABILITY, AutomationPromise, ReleasedProbability, digest_of
from finetune_pipeline.report.stored import REPORT, Report
from finetune_pipeline.spec import Task
from finetune_pipeline.steps.earlier_runs import RECORD
from finetune_pipeline.steps.passed_on import measured_shares
from finetune_pipeline_tests.unit.production.releases import released_facts
from finetune_pipeline_tests.unit.production.streams import task_of
from finetune_pipeline_tests.unit.report.test_promises import promised_at


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return task_of(tmp_path, automation={"max_error": 0.02})


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def keep(store: ArtifactStore, step: str, file: str, content: dict[str, Any], **facts: Any) -> None:
    def make(builder: Builder) -> None:
        builder.facts |= facts
        write_json(builder.folder / file, content)

    store.build("demo", step, code_version="1", inputs={}, settings=facts, make=make)


def test_the_report_says_what_each_model_passes_on_and_of_which_nothing_is_promised(
    task: Task, store: ArtifactStore, tmp_path: Path
) -> None:
    assert measured_shares(task, store) == [], "nothing is measured yet"
    keep(store, "evaluation_report", REPORT, Report.of(promised_at(0.02), []).to_json())
    shares = {shown.kind: shown for shown in measured_shares(task, store)}
    assert (shares["tuned"].share, shares["simple"].share) == pytest.approx((0.2, 0.3))
    assert shares["prompt"].share is None
    assert shares["tuned"].source == "measured on 300 rows of the sealed test"
    (tmp_path / "other").mkdir()
    assert measured_shares(task_of(tmp_path / "other", automation={"max_error": 0.05}), store) == [], "another promise"


def test_where_fields_are_promised_a_call_with_one_unsure_field_is_passed_on(task: Task, store: ArtifactStore) -> None:
    report = Report.of(promised_at(0.02), []).to_json()
    for measured in report["probabilities"].values():
        measured["automation"]["unit"] = "field"
    report["probabilities"]["candidate"]["automation"]["whole_coverage"] = 0.6
    keep(store, "evaluation_report", REPORT, report)
    shares = {shown.kind: shown.share for shown in measured_shares(task, store)}
    assert shares == {"tuned": pytest.approx(0.4), "prompt": None}, "of the simple model no share of calls was measured"


def test_logs_say_what_the_version_that_answered_last_passes_on(task: Task, store: ArtifactStore) -> None:
    record: dict[str, Any] = {"winner_kind": "simple", "winner_name": "linear"}
    released = ReleasedProbability(digest=digest_of(record), promise=AutomationPromise(threshold=0.9, max_error=0.02))
    known = record | {PROBABILITY: msgspec.to_builtins(released)}
    keep(store, "model_version", RECORD, known, **released_facts(7))
    answer = {"input": "i", "output": "a"}
    rows: list[dict[str, Any]] = [
        *({"model_version": "demo:6", "passed_on": True, "timestamp": f"2026-05-01T10:{i:02}:00Z"} for i in range(50)),
        *({"model_version": "demo:7", "passed_on": i < 3, "timestamp": f"2026-05-02T10:{i:02}:00Z"} for i in range(20)),
        {"model_version": "other", "timestamp": "2026-05-03T10:00:00Z"},
    ]
    lines = [json.dumps({**answer, **row, "id": str(i)}) for i, row in enumerate(rows)]
    (task.folder / "logs" / "served.jsonl").write_text("\n".join(lines) + "\n")
    (shown,) = measured_shares(task, store)
    assert (shown.kind, shown.share) == ("simple", 3 / 20)
    assert shown.source == "measured in service on 20 calls of version 7"
