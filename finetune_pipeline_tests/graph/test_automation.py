"""The sensor on new logs, against a real Dagster instance; and a broken task that leaves its neighbours alone."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import dagster as dg
import pytest

from finetune_pipeline.automation.sensors import new_logs_sensor
from finetune_pipeline.definitions import build_definitions
from finetune_pipeline.resources.store import Store
from finetune_pipeline.spec import Task, load_task
from finetune_pipeline_tests.graph.project import Project


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    project = Project(tmp_path_factory.mktemp("automation"), logs={"min_new_rows": 2, "settle_seconds": 60})
    (project.folder / "logs").mkdir()
    return load_task(project.folder)


def tick(task: Task, instance: dg.DagsterInstance, store: Path) -> dg.RunRequest | dg.SkipReason:
    context = dg.build_sensor_context(instance=instance, resources={"store": Store(root=str(store))})
    return new_logs_sensor(task)(context)


def test_the_sensor_waits_asks_once_and_gives_its_reason(task: Task, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        skipped = tick(task, instance, tmp_path)
        assert isinstance(skipped, dg.SkipReason)
        assert skipped.skip_message == "0 of 2 corrected new rows in logs/"
        path = task.folder / "logs" / "a.jsonl"
        line = {"timestamp": "2026-05-01T10:00:00Z", "input": "fire", "output": "blue", "model_version": "1"}
        rows = [{**line, "id": str(i), "input": f"fire {i}", "feedback": {"label": "red"}} for i in range(2)]
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        assert "must rest" in str(tick(task, instance, tmp_path).skip_message)  # type: ignore[union-attr]
        os.utime(path, (time.time() - 100,) * 2)
        asked = tick(task, instance, tmp_path)
        assert isinstance(asked, dg.RunRequest)
        assert asked.tags["finetune/why"] == "2 corrected new rows, 2 asked for"
        again = tick(task, instance, tmp_path)
        assert isinstance(again, dg.RunRequest)
        assert again.run_key == asked.run_key, "the same rows ask for the same run, which Dagster starts once"
        instance.create_run_for_job(_job(), tags={"finetune/task": task.name}, status=dg.DagsterRunStatus.STARTED)
        assert "is going on" in str(tick(task, instance, tmp_path).skip_message)  # type: ignore[union-attr]


def _job() -> dg.JobDefinition:
    @dg.job
    def nothing() -> None: ...

    return nothing


def test_a_broken_task_is_shown_and_the_others_load(task: Task) -> None:
    broken = task.folder.parent / "broken"
    broken.mkdir()
    (broken / "task.yaml").write_text(
        "name: broken\ndescription: d\nsystem_prompt: s\noutput: {kind: text}\ntrainning: {}\n"
    )
    repository = build_definitions(task.folder.parent).get_repository_def()
    keys = {key.to_user_string() for key in repository.assets_defs_by_key}
    assert "broken/broken_task_spec" in keys
    assert "colours/adapter" in keys
    assert not [job for job in repository.job_names if job.startswith("broken")]
    shown = repository.assets_defs_by_key[dg.AssetKey(["broken", "broken_task_spec"])]
    assert "did you mean 'training'?" in next(iter(shown.descriptions_by_key.values()))
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([shown], instance=instance, raise_on_error=False)
    assert not result.success
