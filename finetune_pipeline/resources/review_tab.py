"""MLflow's own Review tab as a second place to review: a desk becomes a queue of traces there, and answers come back.

Built on ``mlflow.genai.review_queues`` and ``mlflow.genai.label_schemas``, which are experimental since MLflow 3.14: whatever
they become, only this file knows them. They work through MLflow's global tracking address, which is set back afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from finetune_pipeline.people.desks import Desk
from finetune_pipeline.people.handed_in import line_of
from finetune_pipeline.report.page import fenced
from finetune_pipeline.resources.mlflow_store import experiment_id, locked, reaching
from finetune_pipeline.resources.tracking import Tracking

if TYPE_CHECKING:
    from mlflow.entities import Assessment, Trace

NOBODY = "default"
"""Whom MLflow names as reviewer where it has no accounts."""
ANSWER = "The right answer"
SHEET, ITEM = "finetune_sheet", "finetune_item"
"""Tags of a trace: the sheet and the item it shows."""
_PAGE = 200
_LONGEST = 4000


@dataclass(frozen=True)
class Queue:
    """A queue of the Review tab. items: on it; added: by this call; page: where people find it."""

    name: str
    items: int
    added: int
    page: str


def push(desk: Desk, tracking: Tracking, task: str) -> Queue:
    """Put the items of a desk into a queue of MLflow's Review tab, in an experiment of the task's own.

    Texts are shown as code, so that nothing of them is markup there. Which model wrote which is not stored. Again with the
    same desk: nothing is added. Raises TrackingError when the server cannot be reached.
    """
    from mlflow.genai import review_queues

    with _store(tracking, task) as experiment:
        there = {item: trace.info.trace_id for item, trace in _traces(tracking, experiment, desk.sheet).items()}
        missing = [item for item in desk.items if item["id"] not in there]
        there |= _write(desk, missing, experiment)
        queue = _queue(desk, experiment)
        wanted = [there[item["id"]] for item in reversed(desk.items)]  # the tab shows the newest first
        for start in range(0, len(wanted), _PAGE):
            review_queues.add_items_to_review_queue(queue, item_ids=wanted[start : start + _PAGE])
    page = f"{tracking.page()}/#/experiments/{experiment}/review-queue"
    return Queue(desk.sheet, len(desk.items), len(missing), page)


def answers(desk: Desk, tracking: Tracking, task: str, rater: str = "") -> tuple[list[tuple[str, Any]], int]:
    """([(place, line as the page hands it in)], answers to items that are not on the desk any more).

    Only what people said counts, and of several answers by one person the one that stands. rater: the name of whoever
    answered where MLflow has no accounts; without it they are all called `default`.
    Raises TrackingError when the server cannot be reached.
    """
    values = {choice["label"]: choice["value"] for choice in desk.choices}
    known, lines, gone = {item["id"] for item in desk.items}, [], 0
    with _store(tracking, task) as experiment:
        found = _traces(tracking, experiment, desk.sheet)
    for item, trace in found.items():
        said = _by_person(trace)
        for person, told in said.items():
            if desk.question not in told:
                continue
            if item not in known:
                gone += 1
                continue
            own, right = told[desk.question], told.get(ANSWER)
            chosen = str(_value(own) or "")
            line = line_of(
                desk,
                item,
                values.get(chosen, chosen),
                rater=(rater or person) if person == NOBODY else person,
                comment=(own.rationale or "")[:_LONGEST],
                answer=str(_value(right) or "").strip() if right else "",
                time=_rfc3339(max(a.last_update_time_ms or 0 for a in (own, right) if a)),
            )
            lines.append((f"the Review tab, {item} by {person}", line))
    return lines, gone


@contextlib.contextmanager
def _store(tracking: Tracking, task: str) -> Iterator[str]:
    """The task's review experiment, with MLflow's global address on our store while the block runs."""
    client = tracking.client()
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking.uri())
    try:
        with reaching(tracking.uri()), locked(tracking.place(), "review"):
            remote = tracking.uri().startswith(("http://", "https://"))
            place = None if remote else tracking.place() / "artifacts"
            yield experiment_id(client, f"{tracking.experiment}-review-{task}", place)
    finally:
        mlflow.set_tracking_uri(before)


def _traces(tracking: Tracking, experiment: str, sheet: str) -> dict[str, Trace]:
    """The traces of a sheet, by item; of several that two processes made, the first."""
    client, token = tracking.client(), None
    found: dict[str, Trace] = {}
    while True:
        page = client.search_traces(
            locations=[experiment],
            filter_string=f"tag.{SHEET} = '{sheet}'",
            order_by=["timestamp_ms ASC"],
            max_results=_PAGE,
            page_token=token,
            include_spans=False,
        )
        for trace in page:
            found.setdefault(trace.info.tags[ITEM], trace)
        token = page.token
        if not token:
            return found


def _write(desk: Desk, items: list[Mapping[str, Any]], experiment: str) -> dict[str, str]:
    """{item: trace id} of new traces; in the store when this returns."""
    import mlflow

    made = {}
    for item in items:
        blocks, sides = item["blocks"], item.get("sides")
        asked, shown = (blocks, sides) if sides else (blocks[:1], blocks[1:])
        span = mlflow.start_span_no_context(
            desk.title,
            span_type="CHAT_MODEL",
            inputs={"messages": [{"role": "user", "content": _told(asked)}]},
            tags={SHEET: desk.sheet, ITEM: item["id"]},
            experiment_id=experiment,
        )
        span.end(outputs={"choices": [{"message": {"role": "assistant", "content": _told(shown)}}]})
        made[item["id"]] = span.trace_id
    mlflow.flush_trace_async_logging()
    return made


def _told(blocks: Any) -> str:
    return "\n\n".join(f"**{block['title']}**\n\n{fenced(block['text'])}" for block in blocks)


def _queue(desk: Desk, experiment: str) -> str:
    """The queue of a desk, made where it is not there."""
    from mlflow.genai import label_schemas, review_queues

    options = [choice["label"] for choice in desk.choices]
    schemas = [_schema(desk.question, label_schemas.InputCategorical(options=options), desk.intro, experiment)]
    if any(choice.get("answer") for choice in desk.choices):
        hint = "Only where the given one is not right." + (
            f" One of: {', '.join(desk.answers)}" if desk.answers else ""
        )
        schemas.append(_schema(ANSWER, label_schemas.InputText(max_length=_LONGEST), hint, experiment))
    found = _found(lambda: review_queues.get_review_queue(name=desk.sheet, experiment_id=experiment))
    if found is None:
        found = review_queues.create_review_queue(
            desk.sheet, queue_type="custom", schema_ids=schemas, experiment_id=experiment
        )
    return str(found.queue_id)


def _schema(name: str, asked: Any, hint: str, experiment: str) -> str:
    from mlflow.genai import label_schemas

    found = _found(lambda: label_schemas.get_label_schema(name, experiment_id=experiment))
    if found is None:
        found = label_schemas.create_label_schema(
            name, type="feedback", input=asked, instruction=hint[:1000], enable_comment=True, experiment_id=experiment
        )
    return str(found.schema_id)


def _found(get: Any) -> Any:
    """What `get` returns, or None where the store does not know it."""
    from mlflow.exceptions import MlflowException

    try:
        return get()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _by_person(trace: Trace) -> dict[str, dict[str, Assessment]]:
    """{person: {question: what they said last}} of a trace; judges and code do not count."""
    said: dict[str, dict[str, Assessment]] = {}
    for one in sorted(trace.info.assessments or [], key=lambda a: a.last_update_time_ms or 0):
        if one.valid is not False and one.source is not None and one.source.source_type == "HUMAN":
            said.setdefault(str(one.source.source_id or NOBODY), {})[one.name] = one
    return said


def _value(one: Assessment) -> Any:
    return one.expectation.value if one.expectation else one.feedback.value if one.feedback else None


def _rfc3339(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()
