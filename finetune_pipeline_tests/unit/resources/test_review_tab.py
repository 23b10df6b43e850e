"""MLflow's Review tab: the same sheet on real SQLite, blind, and answers that come back as the page's own do."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.people.desks import Desk, flagged_desk, judge, outputs_desk, synthetic_desk
from finetune_pipeline.people.handed_in import store
from finetune_pipeline.people.ratings import read_ratings
from finetune_pipeline.people.sheet import RANDOM, SheetItem, sheet_name
from finetune_pipeline.resources import review_tab
from finetune_pipeline.resources.tracking import Tracking
from finetune_pipeline.spec.model import Task, TaskSpec

SHEET = sheet_name("0123456789abcdef", 3)
EVIL = "```\n![x](http://evil.example/p.png) <script>alert(1)</script>"


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    return Tracking(tracking_uri=f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow/mlflow.db")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    spec = {
        "name": f"demo_{tmp_path.name[:40].lower().replace('-', '_')}",
        "description": "d",
        "system_prompt": "Say yes or no.",
        "output": {"kind": "labels", "labels": ["yes", "no"]},
    }
    (tmp_path / "demo").mkdir()
    return Task(spec=TaskSpec.model_validate(spec), folder=tmp_path / "demo")


def outputs(task: Task) -> Desk:
    items = [SheetItem("e1", "is it?", "yes", "yes", "no", RANDOM), SheetItem("e2", EVIL, "no", EVIL, "yes", RANDOM)]
    return outputs_desk(task, SHEET, [*items, SheetItem("e3", "was it?", "no", "no", "no", RANDOM)])


def traces(tracking: Tracking, task: Task) -> dict[str, Any]:
    client = tracking.client()
    number = client.get_experiment_by_name(f"finetune-review-{task.name}").experiment_id
    return {t.info.tags["finetune_item"]: t for t in client.search_traces(locations=[number])}


def say(tracking: Tracking, trace: Any, name: str, value: Any, by: str = "default", **more: Any) -> Any:
    """What the Review tab does when somebody submits."""
    import mlflow
    from mlflow.entities import AssessmentSource, AssessmentSourceType

    kind = more.pop("kind", AssessmentSourceType.HUMAN)
    mlflow.set_tracking_uri(tracking.uri())
    source = AssessmentSource(source_type=kind, source_id=by)
    return mlflow.log_feedback(trace_id=trace.info.trace_id, name=name, value=value, source=source, **more)


def take(desk: Desk, tracking: Tracking, task: Task, rater: str = "") -> tuple[int, int, list[str], int]:
    lines, gone = review_tab.answers(desk, tracking, task.name, rater)
    rows, wrong = judge(desk, lines)
    taken, known, _ = store(desk, rows)
    return taken, known, wrong, gone


def test_a_sheet_goes_there_blind_and_comes_back_as_ratings(tracking: Tracking, task: Task) -> None:
    from mlflow.genai import label_schemas, review_queues

    desk = outputs(task)
    pushed = review_tab.push(desk, tracking, task.name)
    assert (pushed.items, pushed.added, pushed.name) == (3, 3, SHEET) and "/review-queue" in pushed.page
    assert review_tab.push(desk, tracking, task.name).added == 0, "again: nothing new"
    there = traces(tracking, task)
    assert sorted(there) == ["e1", "e2", "e3"]
    stored = json.dumps([[t.info.to_dict(), t.data.to_dict()] for t in there.values()])
    assert not [w for w in ("candidate", "base model", "adapter", "random") if w in stored], (
        "which is which is not there"
    )
    (span,) = there["e2"].data.spans
    shown = span.outputs["choices"][0]["message"]["content"]
    assert f"**A**\n\n````text\n{EVIL}\n````" in shown and "**B**\n\n```text\nyes\n```" in shown
    assert "**Reference answer**" in span.inputs["messages"][0]["content"]

    import mlflow

    mlflow.set_tracking_uri(tracking.uri())
    number = tracking.client().get_experiment_by_name(f"finetune-review-{task.name}").experiment_id
    queue = review_queues.get_review_queue(name=SHEET, experiment_id=number)
    assert len(review_queues.list_review_queue_items(queue.queue_id)) == 3
    (schema,) = [label_schemas.get_label_schema(schema_id=s) for s in queue.schema_ids]
    assert schema.name == desk.question and schema.enable_comment
    assert schema.input.options == ["only A is acceptable", "only B is acceptable", "both are", "neither is"]

    assert take(desk, tracking, task) == (0, 0, [], 0)
    say(tracking, there["e1"], desk.question, "only A is acceptable", rationale="fits")
    say(tracking, there["e2"], desk.question, "neither is", by="bo@acme.example")
    say(tracking, there["e2"], desk.question, "both are", by="judge", kind="LLM_JUDGE")
    assert take(desk, tracking, task, "Ann") == (2, 0, [], 0)
    assert take(desk, tracking, task, "Ann") == (0, 2, [], 0), "taken once, however often"
    ratings, findings = read_ratings(task.folder / "reviews")
    assert findings == []
    told = {(r.id, r.rater): (r.sheet, r.choice, r.comment, bool(r.time)) for r in ratings}
    assert told == {("e1", "Ann"): (SHEET, "A", "fits", True), ("e2", "bo@acme.example"): (SHEET, "neither", "", True)}

    changed = say(tracking, there["e1"], desk.question, "both are")
    mlflow.override_feedback(
        trace_id=changed.trace_id,
        assessment_id=changed.assessment_id,
        value="only B is acceptable",
        source=changed.source,
    )
    say(tracking, there["e3"], desk.question, "perhaps")
    taken, known, wrong, _ = take(desk, tracking, task, "Ann")
    assert (taken, known) == (1, 1) and len(wrong) == 1
    assert "e3 by default: `choice` is 'perhaps'" in wrong[0]
    latest = {r.id: r.choice for r in read_ratings(task.folder / "reviews")[0] if r.rater == "Ann"}
    assert latest == {"e1": "B"}


def test_decisions_about_rows(tracking: Tracking, task: Task) -> None:
    rows = [{"id": f"s{i}", "text": f"text {i}", "answer": "yes", "generator": "g"} for i in range(4)]
    desk = synthetic_desk(task, rows)
    assert review_tab.push(desk, tracking, task.name).added == 4
    there = traces(tracking, task)
    assert "yes" in there["s0"].data.spans[0].outputs["choices"][0]["message"]["content"]
    for item, choice in (("s0", "keep"), ("s1", "drop"), ("s2", "another answer"), ("s3", "another answer")):
        say(tracking, there[item], desk.question, choice)
    say(tracking, there["s2"], review_tab.ANSWER, "no")
    say(tracking, there["s3"], review_tab.ANSWER, "maybe")
    taken, known, wrong, gone = take(desk, tracking, task, "Ann")
    assert (taken, known, gone) == (3, 0, 0) and len(wrong) == 1 and "'maybe' is no label" in wrong[0]
    lines = [json.loads(x) for x in (task.folder / "reviews/synthetic-Ann.jsonl").read_text().splitlines()]
    assert Counter((x["id"], x["decision"], x.get("label")) for x in lines) == Counter(
        [("s0", "keep", None), ("s1", "drop", None), ("s2", "relabel", "no")]
    )
    later = synthetic_desk(task, rows[1:3])  # the next data report asks for fewer
    assert take(later, tracking, task, "Ann") == (0, 2, [], 2)


def test_flagged_rows_become_log_lines_once(tracking: Tracking, task: Task) -> None:
    row = {
        "id": "p1", "input": "is it?", "output": "no", "why": "flagged", "correction": None, "flag": True,
        "timestamp": "2026-01-02T03:04:05+00:00", "model_version": "3",
    }  # fmt: skip
    desk = flagged_desk(task, [row])
    review_tab.push(desk, tracking, task.name)
    say(tracking, traces(tracking, task)["p1"], desk.question, "another answer")
    say(tracking, traces(tracking, task)["p1"], review_tab.ANSWER, "yes")
    assert take(desk, tracking, task)[:2] == (1, 0)
    assert take(desk, tracking, task)[:2] == (0, 1)
    (line,) = (task.folder / "logs/reviewed-default.jsonl").read_text().splitlines()
    assert json.loads(line)["feedback"]["correction"] == "yes"


def test_the_global_address_is_set_back(tracking: Tracking, task: Task, tmp_path: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/other.db")
    review_tab.push(outputs(task), tracking, task.name)
    assert mlflow.get_tracking_uri() == f"sqlite:///{tmp_path}/other.db"
    assert not (tmp_path / "other.db").exists()
