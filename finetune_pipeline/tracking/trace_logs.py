"""Reads MLflow traces as production logs: each finished trace is a row, each of its assessments is feedback."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.production.log_intake import ingest_records
from finetune_pipeline.spec.model import Task
from finetune_pipeline.tracking.mlflow_store import mlflow_errors
from finetune_pipeline.tracking.tracking import Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Trace

WINDOW_DAYS = 30
"""Days after an answer during which its assessments are read."""
_PAGE = 200
_INPUTS = ("input", "question", "prompt", "query", "text", "message")
_OUTPUTS = ("output", "answer", "response", "content", "text", "label", "result")
_TRUTHS = ("correction", "label", "expected_response", "expected_output", "expected_answer")


def ingest_traces(task: Task, store: ArtifactStore, tracking: Tracking) -> int:
    """Ingest the traces of the experiment ``logs.mlflow_experiment``. Returns the number of rows; 0 without an experiment.

    A trace is ingested once it has ended; assessments within 30 days become feedback.
    Raises FindingsError if there is no such experiment.
    """
    name = task.spec.logs.mlflow_experiment
    if name is None:
        return 0
    since = time.time() - 86_400 * WINDOW_DAYS
    client = tracking.client()
    with mlflow_errors(tracking.uri()):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            message = f"there is no experiment {name!r} in MLflow"
            fix = "correct the name, or unset it until production has written its first trace"
            raise FindingsError(
                [Finding("log.no_experiment", "error", "task.yaml: logs.mlflow_experiment", message, fix)]
            )
        traces = _traces(client, experiment.experiment_id, since)
        ended = (trace for trace in traces if str(trace.info.state.value) != "IN_PROGRESS")
        records = (record for trace in ended for record in _records(trace))
        return ingest_records(task, store, f"mlflow:{name}", records, since)


def _traces(client: MlflowClient, experiment_id: str, since: float) -> Iterator[Trace]:
    """Yield the traces since this time, oldest first, page by page: a trace with its spans may be large."""
    search = partial(
        client.search_traces,
        locations=[experiment_id],
        filter_string=f"timestamp_ms >= {int(since * 1000)}",
        order_by=["timestamp_ms ASC"],
        max_results=_PAGE,
    )
    yield from (page := search())
    while page.token:
        yield from (page := search(page_token=page.token))


def _records(trace: Trace) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Yield a trace's log lines. A failed trace has no output and is therefore quarantined."""
    info = trace.info
    name, moment = info.client_request_id or info.trace_id, info.request_time / 1000
    root = next((span for span in trace.data.spans if span.parent_id is None), None)
    row: dict[str, Any] = {
        "id": name,
        "timestamp": _rfc3339(moment),
        "output": _answer(root.outputs) if root else None,
        "model_version": info.tags.get("model_version") or info.trace_metadata.get("mlflow.modelId") or "unknown",
        **_question(root.inputs if root else None),
    }
    if user := info.trace_metadata.get("mlflow.trace.user"):
        row["user"] = user
    yield info.trace_id, moment, row
    feedback, last = _feedback(info.assessments)
    if feedback:
        line = {"id": name, "timestamp": _rfc3339(max(last, moment)), "feedback": feedback}
        yield f"{info.trace_id}/feedback", moment, line


def _rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


def _question(inputs: Any) -> dict[str, object]:
    """Return the messages or the text of a call."""
    if isinstance(inputs, str):
        return {"input": inputs}
    if not isinstance(inputs, Mapping):
        return {}
    if isinstance(inputs.get("messages"), list):
        return {"messages": inputs["messages"]}
    texts = [v for v in inputs.values() if isinstance(v, str)]
    text = next((inputs[k] for k in _INPUTS if isinstance(inputs.get(k), str)), texts[0] if len(texts) == 1 else None)
    return {} if text is None else {"input": text}


def _answer(outputs: Any) -> str | None:
    """Return the answer: a text, a field of an object, or the first choice of a chat completion."""
    if isinstance(outputs, str):
        return outputs
    if not isinstance(outputs, Mapping):
        return None
    choices = outputs.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        message = choices[0].get("message")
        content = message.get("content") if isinstance(message, Mapping) else None
        return content if isinstance(content, str) else None
    text = next((outputs[k] for k in _OUTPUTS if isinstance(outputs.get(k), str)), None)
    return text if text is not None else json.dumps(outputs, ensure_ascii=False, sort_keys=True)


def _feedback(assessments: Any) -> tuple[dict[str, object], float]:
    """Return (feedback in the format of log lines, time of the latest assessment in seconds since 1970).

    An expectation, or feedback named correction or label, is the correct answer; a number is the score; feedback named flag is
    a flag, and False takes it back; False under any other name is a flag.
    """
    feedback: dict[str, object] = {}
    last = 0.0
    for assessment in sorted(assessments or [], key=lambda a: (a.last_update_time_ms or 0, a.name)):
        if assessment.valid is False:
            continue
        answer = assessment.expectation or assessment.feedback
        value = answer.value if answer else None
        truth = assessment.name in _TRUTHS or assessment.expectation is not None
        if truth and isinstance(value, str):
            feedback["correction"] = value
        elif assessment.name == "flag" and value is not None:
            reason = value if isinstance(value, str) else assessment.rationale or "flagged"
            feedback["flag"] = reason if value else False
        elif value is False:
            feedback["flag"] = assessment.rationale or assessment.name
        elif isinstance(value, int | float) and not isinstance(value, bool):
            feedback["score"] = value
        else:
            continue
        last = max(last, (assessment.last_update_time_ms or 0) / 1000)
    return feedback, last
