"""Traces of a real MLflow on SQLite become rows, once; assessments become feedback."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.production import log_intake
from finetune_pipeline.production.erasure import forget
from finetune_pipeline.production.log_merging import read_logs
from finetune_pipeline.spec import Task, load_task
from finetune_pipeline.tracking import trace_logs
from finetune_pipeline.tracking.trace_logs import ingest_traces
from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline_tests.unit.production.streams import make_task


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow's set_tracking_uri changes it
    folder = make_task(tmp_path)
    spec = yaml.safe_load((folder / "task.yaml").read_text())
    (folder / "task.yaml").write_text(yaml.safe_dump({**spec, "logs": {"mlflow_experiment": "served"}}))
    return load_task(folder)


def traced(tracking: Tracking, inputs: Any, outputs: Any, user: str | None = None, state: str = "OK") -> str:
    """One production call, traced as an application does. Returns the trace's id."""
    import mlflow

    mlflow.set_tracking_uri(tracking.uri())
    mlflow.set_experiment("served")
    with mlflow.start_span("call") as span:
        span.set_inputs(inputs)
        if outputs is not None:
            span.set_outputs(outputs)
        if user:
            mlflow.update_current_trace(metadata={"mlflow.trace.user": user}, tags={"model_version": "7"})
        if state == "ERROR":
            span.set_status("ERROR")
    mlflow.flush_trace_async_logging()
    return str(span.trace_id)


def test_traces_are_rows_once_and_assessments_are_feedback(
    task: Task, tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from mlflow.entities import AssessmentSource

    store = ArtifactStore(tmp_path / "home" / "artifacts")
    tracking.prepare()
    monkeypatch.setattr(trace_logs, "_PAGE", 2)  # more traces than one page holds
    with pytest.raises(FindingsError, match="no experiment 'served'"):
        ingest_traces(task, store, tracking)
    person = AssessmentSource(source_type="HUMAN", source_id="ann")
    chat = {"messages": [{"role": "user", "content": "write to ann@shop.example"}]}
    first = traced(tracking, chat, {"choices": [{"message": {"role": "assistant", "content": "a"}}]}, user="ann")
    second = traced(tracking, {"question": "is it on?"}, "b")
    traced(tracking, {"question": "fails"}, None, state="ERROR")
    assert ingest_traces(task, store, tracking) == 3
    logs = read_logs(task, store)
    rows = {row["id"]: row for row in logs.rows}
    assert set(rows) == {first, second}
    expected = {"input": "write to [EMAIL_1]", "output": "a", "model_version": "7"}
    assert expected.items() <= rows[first].items() and rows[first]["user"] not in (None, "ann")
    assert (rows[second]["input"], rows[second]["output"]) == ("is it on?", "b")
    (quarantined,) = logs.quarantine
    assert "'output' is missing" in json.dumps(quarantined["findings"])
    assert ingest_traces(task, store, tracking) == 0, "each once"

    mlflow.log_feedback(trace_id=first, name="helpful", value=False, rationale="wrong label", source=person)
    mlflow.log_expectation(trace_id=first, name="expected_response", value="b", source=person)
    mlflow.log_feedback(trace_id=second, name="quality", value=0.25, source=person)
    assert ingest_traces(task, store, tracking) == 2 and ingest_traces(task, store, tracking) == 0
    logs = read_logs(task, store)
    rows = {row["id"]: row for row in logs.rows}
    assert (rows[first]["flag"], rows[first]["correction"]) == ("wrong label", "b")
    assert rows[second]["score"] == 0.25
    assert (logs.lines, len(logs.rows), logs.feedback, len(logs.quarantine)) == (5, 2, 2, 1)
    written = b"".join(p.read_bytes() for p in store.root.rglob("*.json*"))
    assert b"shop.example" not in written and b'"ann"' not in written

    removed = forget(task, store, users=["ann"])
    assert any("MLflow traces of the experiment 'served'" in place for place in removed.out_of_reach)
    assert ingest_traces(task, store, tracking) == 0
    assert not [p for p in store.root.rglob("*") if p.is_file() and first.encode() in p.read_bytes()]
    assert {row["id"] for row in read_logs(task, store).rows} == {second}


def test_what_a_trace_may_not_say_is_quarantined_and_stops_no_other(
    task: Task, tracking: Tracking, tmp_path: Path
) -> None:
    import mlflow

    store = ArtifactStore(tmp_path / "home" / "artifacts")
    parts = [{"type": "text", "text": "a"}]
    traced(tracking, {"question": "is it on?"}, {"choices": [{"message": {"content": parts}}]})
    scored = traced(tracking, {"question": "is it off?"}, "b")
    mlflow.log_feedback(trace_id=scored, name="score", value=10**400)
    assert ingest_traces(task, store, tracking) == 3
    logs = read_logs(task, store)
    assert [(row["id"], row["score"]) for row in logs.rows] == [(scored, None)]
    reasons = json.dumps([entry["findings"] for entry in logs.quarantine])
    assert "'output' is missing" in reasons and "the score is not a finite number" in reasons


CHAT = [{"role": "user", "content": "is it on?"}]


@pytest.mark.parametrize(
    ("inputs", "question"),
    [
        ("is it on?", {"input": "is it on?"}),
        ({"messages": CHAT, "text": "no"}, {"messages": CHAT}),
        ({"messages": "none", "text": "is it on?"}, {"input": "is it on?"}),
        ({"language": "en", "text": "is it on?"}, {"input": "is it on?"}),
        ({"ticket": "is it on?", "number": 3}, {"input": "is it on?"}),
        ({"ticket": "is it on?", "language": "en"}, {}),  # which of them is the question?
        ({"text": 3}, {}),
        ([CHAT], {}),
        (None, {}),
    ],
)
def test_the_question_of_a_call_is_its_messages_its_only_text_or_the_one_with_a_usual_name(inputs, question) -> None:
    assert trace_logs._question(inputs) == question


@pytest.mark.parametrize(
    ("outputs", "answer"),
    [
        ("a", "a"),
        ({"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}, "a"),
        ({"choices": [{"message": {"content": None}}], "text": "b"}, None),
        ({"choices": [{"message": "a"}]}, None),
        ({"choices": [], "text": "a"}, "a"),
        ({"choices": ["a"], "label": "b"}, "b"),
        ({"score": 0.5, "label": "a"}, "a"),
        ({"size": 1, "name": "Zoë"}, '{"name": "Zoë", "size": 1}'),
        (3, None),
        (None, None),
    ],
)
def test_the_answer_of_a_call_is_its_text_its_first_choice_or_the_object(outputs: Any, answer: str | None) -> None:
    assert trace_logs._answer(outputs) == answer


@pytest.mark.parametrize(
    ("assessments", "feedback", "last"),
    [
        ([("label", "b", 3), ("label", "a", 2)], {"correction": "b"}, 3),  # the latest counts, however they are listed
        ([("expected_response", "a", 2, {}), ("quality", 0.25, 4)], {"correction": "a", "score": 0.25}, 4),
        ([("label", "a", 2), ("label", "b", 3, {"valid": False})], {"correction": "a"}, 2),
        ([("flag", "rude", 1)], {"flag": "rude"}, 1),
        ([("flag", True, 1)], {"flag": "flagged"}, 1),
        ([("flag", True, 1, {"rationale": "too long"})], {"flag": "too long"}, 1),
        ([("flag", True, 1), ("flag", False, 2)], {"flag": False}, 2),  # taken back
        ([("helpful", False, 1)], {"flag": "helpful"}, 1),
        ([("helpful", False, 1, {"rationale": "wrong label"})], {"flag": "wrong label"}, 1),
        ([("helpful", True, 5), ("label", 7, 2)], {"score": 7}, 2),  # praise says nothing that training could use
        ([("helpful", "yes", 5)], {}, 0),
    ],
)
def test_assessments_are_the_feedback_that_they_mean(assessments: list[Any], feedback: dict, last: float) -> None:
    from mlflow.entities import Expectation, Feedback

    entities = []
    for name, value, seconds, *more in assessments:
        times = {"create_time_ms": 0, "last_update_time_ms": seconds * 1000}
        if name.startswith("expected"):
            entities.append(Expectation(name=name, value=value, **times))
        else:
            entities.append(Feedback(name=name, value=value, **times, **(more[0] if more else {})))
    assert trace_logs._feedback(entities) == (feedback, last)


def test_an_assessment_without_a_time_counts_at_no_time() -> None:
    from mlflow.entities import Feedback

    undated = Feedback(name="quality", value=0.5)
    undated.last_update_time_ms = None
    assert trace_logs._feedback([undated]) == ({"score": 0.5}, 0)
    assert trace_logs._feedback(None) == ({}, 0)


def test_traces_are_read_for_thirty_days_and_only_if_the_task_names_an_experiment(
    task: Task, tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(tmp_path / "home" / "artifacts")
    traced(tracking, {"text": "hello there"}, "a")
    now = time.time()
    for days, rows in ((31, 0), (29, 1)):
        monkeypatch.setattr(trace_logs.time, "time", lambda later=now + 86_400 * days: later)
        assert ingest_traces(task, store, tracking) == rows, days
    assert ingest_traces(load_task(make_task(tmp_path / "plain")), store, tracking) == 0


def test_a_death_before_the_ledger_takes_nothing_twice(
    task: Task, tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(tmp_path / "home" / "artifacts")
    name = traced(tracking, {"text": "hello there"}, "a")

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("finetune_pipeline.production.log_store.write_json", dies)
        with pytest.raises(KeyboardInterrupt):
            ingest_traces(task, store, tracking)
    assert ingest_traces(task, store, tracking) == 1
    assert [row["id"] for row in log_intake.log_store(task, store).rows()] == [name]
