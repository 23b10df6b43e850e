"""Two runs at once in one home: what one writes in the middle of another one's call does not fail that call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy
from mlflow.exceptions import MlflowException

from finetune_pipeline.tracking.mlflow_store import experiment_id
from finetune_pipeline.tracking.step_run import StepRun
from finetune_pipeline.tracking.tracking import Tracking


@dataclass(frozen=True)
class Write:
    """What two steps write at once, and what MLflow has then (of both steps, or of what they share)."""

    write: Callable[[StepRun], object]
    read: Callable[[StepRun], object]
    value: object


def losses(step: StepRun) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in step.client.get_metric_history(step.run_id, "loss"))


def datasets(step: StepRun) -> list[str]:
    return [each.dataset.name for each in step.client.get_run(step.run_id).inputs.dataset_inputs]


WRITES = {
    "experiment": Write(
        lambda step: experiment_id(step.client, "another", None),
        lambda step: [e.name for e in step.client.search_experiments(filter_string="name = 'another'")],
        ["another"],
    ),
    "data set": Write(
        lambda step: step.log_dataset("tickets_train", "0" * 64, "/rows.jsonl", "training", {"rows": 3}),
        datasets,
        ["tickets_train"],
    ),
    "tags": Write(
        lambda step: step.parent.set_tags({"finetune.decision": "ship"}),
        lambda step: step.client.get_run(step.parent.run_id).data.tags["finetune.decision"],
        "ship",
    ),
    "parameters": Write(
        lambda step: step.parent.log_params({"data.seed": 0, "method": "lora"}),
        lambda step: step.client.get_run(step.parent.run_id).data.params,
        {"data.seed": "0", "method": "lora"},
    ),
    "metrics": Write(
        lambda step: step.parent.log_metrics({"accuracy": 0.5}),
        lambda step: step.client.get_run(step.parent.run_id).data.metrics,
        {"accuracy": 0.5},
    ),
    "losses": Write(
        lambda step: step.log_history([{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]),
        losses,
        [(1, 0.5), (2, 0.25)],
    ),
    "tag of a model": Write(
        lambda step: step.client.set_registered_model_tag("tickets", "purpose", "sorts"),
        lambda step: step.client.get_registered_model("tickets").tags,
        {"purpose": "sorts"},
    ),
    "tag of a version": Write(
        lambda step: step.client.set_model_version_tag("tickets", "1", "gates", "passed"),
        lambda step: step.client.get_model_version("tickets", "1").tags,
        {"gates": "passed"},
    ),
    "alias": Write(
        lambda step: step.client.set_registered_model_alias("tickets", "candidate", "1"),
        lambda step: step.client.get_registered_model("tickets").aliases,
        {"candidate": 1},
    ),
}


@contextmanager
def meanwhile(statement: str, act: Callable[[], object]) -> Iterator[list[str]]:
    """Act once, just before a database gets the first statement that begins like this. Yields this statement, once it acted."""
    done: list[str] = []

    def before(connection: Any, cursor: Any, sql: str, *_: object) -> None:
        if sql.startswith(statement) and not done:
            done.append(sql)
            act()

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", before)
    try:
        yield done
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", before)


def step_runs(tracking: Tracking) -> tuple[StepRun, StepRun]:
    """The nested runs of two steps that run at once, with one parent."""
    client = tracking.client()
    experiment = experiment_id(client, tracking.experiment, None)
    ids = [client.create_run(experiment).info.run_id for _ in range(3)]
    parent = StepRun(client, tracking.uri(), ids[0], "")
    first, second = (StepRun(tracking.client(), tracking.uri(), run_id, "", parent) for run_id in ids[1:])
    return first, second


@pytest.mark.parametrize("name", WRITES)
def test_what_two_runs_write_at_once_is_written(tracking: Tracking, name: str) -> None:
    first, second = step_runs(tracking)
    first.client.create_registered_model("tickets")
    first.client.create_model_version("tickets", source="/model", run_id=first.run_id)
    write = WRITES[name]
    with meanwhile("INSERT", lambda: write.write(second)) as interrupted:
        write.write(first)
    assert interrupted, "nothing was written"
    assert [write.read(step) for step in (first, second)] == [write.value] * 2


def test_a_parameter_that_another_run_has_set_to_another_value_is_refused(tracking: Tracking) -> None:
    first, second = step_runs(tracking)
    with (
        meanwhile("INSERT", lambda: second.parent.log_params({"data.seed": 1})),
        pytest.raises(MlflowException, match="data.seed"),
    ):
        first.parent.log_params({"data.seed": 0})
