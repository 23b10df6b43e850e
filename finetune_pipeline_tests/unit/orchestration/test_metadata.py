"""What Dagster and MLflow show of an artifact's facts: tables, four figures, and few metrics."""

import json
import math
from pathlib import Path

import dagster as dg
import pytest

from finetune_pipeline.engine.files import write_json
from finetune_pipeline.engine.step import Step
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.orchestration.materialize import as_metadata, history_follower, metrics_of
from finetune_pipeline.tracking.step_run import StepRun
from finetune_pipeline_tests.shared import copy_database


def rows_of(value: dg.MetadataValue) -> list[dict]:
    """Rows of a table."""
    assert isinstance(value, dg.TableMetadataValue)
    return [dict(record.data) for record in value.records]


def test_rows_of_plain_values_and_groups_of_numbers_are_tables() -> None:
    gates = [
        {"name": "beats_baseline", "passed": True, "measured": 0.1234567, "interval": [0.01, 0.20001]},
        {"name": "judge", "passed": False, "measured": None, "why": "no judge"},
    ]
    groups = {"counts": {"train": 700, "test": 171}, "labels": {"train": {"a": 1}, "test": {"b": 2}}}
    metadata = as_metadata({"gates": gates, **groups, "no_labels": {"train": {}, "test": {}}})
    assert "no_labels" not in metadata, "a table without columns says nothing"
    assert rows_of(metadata["gates"]) == [
        {"name": "beats_baseline", "passed": True, "measured": 0.1235, "interval": "0.01 to 0.2", "why": ""},
        {"name": "judge", "passed": False, "measured": "", "interval": "", "why": "no judge"},
    ]
    assert rows_of(metadata["counts"]) == [{"key": "train", "value": 700}, {"key": "test", "value": 171}]
    assert rows_of(metadata["labels"]) == [{"key": "train", "a": 1, "b": ""}, {"key": "test", "a": "", "b": 2}]


def test_other_containers_are_json_and_numbers_have_four_figures() -> None:
    metadata = as_metadata(
        {"deep": {"a": {"b": {"c": 0.123456}}}, "share": 1 / 3, "seconds": 12345.678, "no": math.nan}
    )
    assert metadata["deep"].value == {"a": {"b": {"c": 0.1235}}}
    assert (metadata["share"], metadata["seconds"], metadata["no"]) == (0.3333, 12346.0, "nan")
    assert isinstance(as_metadata({"none": []})["none"], dg.JsonMetadataValue)


def test_a_training_goes_on_while_mlflow_is_away_and_its_losses_are_logged_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri, warnings, path = copy_database(tmp_path / "mlflow"), list[str](), tmp_path / "history.jsonl"
    here, away = MlflowClient(uri), MlflowClient("http://127.0.0.1:9")
    run = StepRun(here, uri, here.create_run("0").info.run_id, "")
    follow = history_follower(run, warnings.append)
    for step, client in enumerate([here, away, away, here], 1):
        run.client = client
        with path.open("a") as history:
            history.write(json.dumps({"step": step, "loss": 1 / step}) + "\n")
        follow(tmp_path, 0)
    assert len(warnings) == 1 and "127.0.0.1" in warnings[0] and "cannot be reached" in warnings[0]
    assert [m.step for m in here.get_metric_history(run.run_id, "loss")] == [1, 2, 3, 4]


def test_metrics_are_few_and_named(tmp_path: Path) -> None:
    facts = {"rows": 7, "passed": True, "models": {"candidate": {"accuracy": 0.9}}, "gain": {"interval": [0.1, 0.3]}}
    named = {"accuracy": "models.candidate.accuracy", "gain_high": "gain.interval[1]", "absent": "models.base.accuracy"}
    write_json(tmp_path / "measured.json", {"seconds": 2.5, "peak_memory_mib": None, "cpu_seconds": 9})
    artifact = Artifact("task", "step", "v1", tmp_path, facts, {})
    assert metrics_of(Step("step", "data", "d", metrics=named), artifact) == {
        "rows": 7.0, "passed": 1.0, "accuracy": 0.9, "gain_high": 0.3, "seconds": 2.5
    }  # fmt: skip
