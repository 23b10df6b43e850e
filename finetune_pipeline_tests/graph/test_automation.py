"""Sensors and schedule against a real Dagster instance: when they ask for a run, when they do not, and why; and a broken
task that leaves its neighbours alone."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from finetune_pipeline.cli.automate import switch
from finetune_pipeline.data.examples import Example, example_id, write_examples
from finetune_pipeline.definitions import build_definitions
from finetune_pipeline.engine.store import Artifact, ArtifactStore, Builder, write_json
from finetune_pipeline.orchestration import release
from finetune_pipeline.orchestration.assets import task_checks, task_jobs
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.orchestration.sensors import champion_sensor, drift_sensor, new_logs_sensor, retraining_schedule
from finetune_pipeline.production.ingest import corrections, read_logs
from finetune_pipeline.production.used_rows import waiting_rows
from finetune_pipeline.spec import Task, load_task
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline_tests.graph.project import Project
from finetune_pipeline_tests.shared import copy_database

FIRST = datetime(2026, 5, 1, 10, tzinfo=UTC).timestamp()
DAY = 86_400


@pytest.fixture
def project(tmp_path: Path) -> Project:
    base = tmp_path / "base"
    base.mkdir()
    made = Project(
        tmp_path,
        base=base,
        logs={"min_new_rows": 2, "settle_seconds": 60},
        retraining={"longest_wait_days": 100_000},
        drift={"window_rows": 30, "action": "start"},
    )
    (made.folder / "logs").mkdir()
    return made


@pytest.fixture
def task(project: Project) -> Task:
    return load_task(project.folder)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture(scope="module")
def store_of_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose MLflow store is prepared already."""
    home = tmp_path_factory.mktemp("home")
    copy_database(home / "mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_HOME", str(home))
        Tracking().prepare()
    return home


@pytest.fixture
def tracking(tmp_path: Path, store_of_models: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    shutil.copytree(store_of_models, tmp_path / "home", dirs_exist_ok=True)
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    return Tracking()


def serve(tracking: Tracking, champion: int) -> None:
    """Make a version champion; the first time, two versions are registered."""
    client = tracking.client()
    if not client.search_registered_models():
        client.create_registered_model("colours")
        for _ in range(2):
            client.create_model_version("colours", source="file:///nothing")
    client.set_registered_model_alias("colours", registry.CHAMPION, str(champion))


def log(task: Task, n: int, *, rested: bool = True, **more: Any) -> None:
    """`n` answered rows in the log, the first two with a correction; rested: last written a while ago."""
    path = task.folder / "logs" / "a.jsonl"
    line = {"timestamp": "2026-05-01T10:00:00Z", "output": "blue", "model_version": "1"}
    rows = [{**line, "id": str(i), "input": f"fire {i}", **more} for i in range(n)]
    for row in rows[:2]:
        row["feedback"] = {"label": "red"}
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    if rested:
        os.utime(path, (time.time() - 100,) * 2)


def ask(sensor: dg.SensorDefinition, instance: dg.DagsterInstance, store: Path) -> Any:
    return sensor(dg.build_sensor_context(instance=instance, resources={"store": Store(root=str(store))}))


def watch_drift(project: Project, instance: dg.DagsterInstance, store: Path, tracking: Tracking) -> Any:
    """A tick of the drift sensor."""
    task = load_task(project.folder)
    context = dg.build_sensor_context(
        instance=instance, resources={"store": Store(root=str(store)), "tracking": tracking}
    )
    return drift_sensor(task, task_jobs(task))(context)


def ended(instance: dg.DagsterInstance, task: Task, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    tags = {"finetune/task": task.name, "finetune/stage": "all"}
    return instance.create_run_for_job(_job(), tags=tags, status=status)


def artifact(store: Path, step: str, facts: dict[str, Any], inputs: dict[str, str], rows: Any = None) -> Artifact:
    def make(builder: Builder) -> None:
        builder.facts.update(facts)
        if rows is not None:
            (builder.folder / "files").mkdir()
            write_examples(builder.folder / "files/production.jsonl", rows)

    return ArtifactStore(store).build("colours", step, code_version="1", inputs=inputs, settings=facts, make=make)


def candidate(
    store: Path, rows: Any = (), champion: int | None = 1, number: int = 1, splits: str = "s", promoted: bool = True
) -> Artifact:
    """A registered candidate made from these production rows."""
    data = artifact(store, "splits", {"name": splits}, {})
    raw = artifact(store, "raw_examples", {"of": number}, {}, rows)
    report = artifact(store, "evaluation_report", {}, {"raw_examples": raw.version, "splits": data.version})
    facts = {"model_version": number, "champion": champion, "promoted": promoted}
    return artifact(store, "model_version", facts, {"evaluation_report": report.version})


def found_drift(store: Path, rows: int, usable: int) -> None:
    """A drift report about the first candidate's data, and the decision to train again."""
    data = next(a for a in ArtifactStore(store).all_versions("colours", "splits") if a.facts["name"] == "s")
    drifted = {"drifted": ["label_mix"], "sentence": "Drifted.", "since": "2026-05-01T10:00:00+00:00"}
    report = artifact(store, "drift_report", {"rows": rows, "trained_on": data.version, **drifted}, {})
    decision = {"retrain": True, "usable_rows": usable, "sentence": "Train again."}
    artifact(store, "retraining_decision", decision, {"drift_report": report.version})


def example(n: int) -> Example:
    messages = [{"role": "user", "content": f"ember {n}"}, {"role": "assistant", "content": "red"}]
    return Example(example_id(messages), messages, label="red", origin="production", tags=[f"log:{n}"])


def test_the_sensor_waits_asks_once_and_gives_its_reason(
    task: Task, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    def tick() -> Any:
        return ask(new_logs_sensor(task), instance, tmp_path / "store")

    assert tick().skip_message == "0 of 2 corrected new rows in logs/"
    log(task, 2, rested=False)
    assert "must rest" in tick().skip_message
    log(task, 2)
    asked = tick()
    assert isinstance(asked, dg.RunRequest)
    assert asked.tags["finetune/why"] == "2 corrected new rows, 2 asked for"
    assert tick().run_key == asked.run_key, "the same rows ask for the same run, which Dagster starts once"
    ended(instance, task, dg.DagsterRunStatus.STARTED)
    assert "is going on" in tick().skip_message


def test_a_failed_batch_is_tried_three_times_and_then_a_person_is_asked(
    task: Task, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    def tick() -> Any:
        return ask(new_logs_sensor(task), instance, tmp_path / "store")

    log(task, 2)
    keys = {tick().run_key}
    for attempt in (2, 3):
        ended(instance, task, dg.DagsterRunStatus.FAILURE)
        again = tick()
        assert f"attempt {attempt} of 3" in again.tags["finetune/why"]
        keys.add(again.run_key)
    assert len(keys) == 3, "each attempt is a run of its own"
    last = ended(instance, task, dg.DagsterRunStatus.FAILURE)
    response = tick().skip_message
    assert "a person must look" in response
    assert last.run_id[:8] in response
    ended(instance, task, dg.DagsterRunStatus.SUCCESS)
    assert isinstance(tick(), dg.RunRequest), "a run that succeeds opens the way again"


def test_rows_of_a_registered_candidate_wait_no_more_and_old_rows_do_not_wait_for_ever(
    project: Project, task: Task, tmp_path: Path
) -> None:
    store = ArtifactStore(tmp_path / "store")
    log(task, 1)
    assert "the oldest waits 3.0 of at most 100000 days" in waiting_rows(task, store, FIRST + 3 * DAY).sentence
    project.write_spec(retraining={"longest_wait_days": 3})
    hasty = load_task(project.folder)
    waits = waiting_rows(hasty, store, time.time())
    assert (waits.ready, waits.usable) == (True, 1)
    assert "longer than 3" in waits.sentence
    candidate(tmp_path / "store", corrections(task.spec, read_logs(task, store)))
    after = waiting_rows(hasty, store, time.time())
    assert (after.ready, after.usable) == (False, 0)


def test_the_drift_sensor_looks_after_a_window_and_acts_as_the_spec_says(
    project: Project, task: Task, tmp_path: Path, instance: dg.DagsterInstance, tracking: Tracking
) -> None:
    store = tmp_path / "store"

    def tick() -> Any:
        return watch_drift(project, instance, store, tracking)

    assert "no candidate was made yet" in tick().skip_message
    candidate(store, champion=None)
    assert "no champion serves yet" in tick().skip_message
    serve(tracking, 1)
    log(task, 29)
    assert tick().skip_message == "29 production rows, a window has 30"
    log(task, 30)
    look = tick()
    assert (look.job_name, look.tags["finetune/trigger"]) == ("colours__production", "drift")
    found_drift(store, rows=30, usable=2)
    run = tick()
    assert (run.job_name, run.tags["finetune/why"]) == ("colours__all", "Drifted. Train again.")
    project.write_spec(drift={"window_rows": 30, "action": "propose"})
    assert tick().skip_message == "Drifted. Train again. Proposed: `finetune run colours`."
    project.write_spec(drift={"window_rows": 30, "action": "tell"})
    assert tick().skip_message == "Drifted. Train again."
    log(task, 60)
    assert tick().tags["finetune/why"] == "30 new rows: looking at production"


def test_a_drift_starts_one_run_before_the_next_look_and_no_second_one(
    project: Project, task: Task, tmp_path: Path, instance: dg.DagsterInstance, tracking: Tracking
) -> None:
    store = tmp_path / "store"

    def tick() -> Any:
        return watch_drift(project, instance, store, tracking)

    serve(tracking, 1)
    candidate(store)
    log(task, 60)
    found_drift(store, rows=30, usable=25)
    assert tick().job_name == "colours__all", "though a window of new rows waits for a look"
    ended(instance, task, dg.DagsterRunStatus.FAILURE)
    assert "attempt 2 of 3" in tick().tags["finetune/why"]
    ended(instance, task, dg.DagsterRunStatus.SUCCESS)
    assert tick().tags["finetune/why"] == "30 new rows: looking at production"
    project.write_spec(drift={"window_rows": 31, "action": "start"})
    assert tick().skip_message.startswith("Drifted. Train again. Run "), "and no second one for this drift"


def test_a_refused_candidate_is_not_made_again_until_as_many_rows_came_in_as_it_had(
    project: Project, task: Task, tmp_path: Path, instance: dg.DagsterInstance, tracking: Tracking
) -> None:
    store = tmp_path / "store"

    def tick() -> Any:
        return watch_drift(project, instance, store, tracking)

    serve(tracking, 1)
    candidate(store)
    log(task, 30)
    rows = [example(i) for i in range(25)]
    found_drift(store, rows=30, usable=25)
    candidate(store, rows, number=2, splits="later", promoted=False)
    found_drift(store, rows=31, usable=40)
    assert tick().skip_message == (
        "Drifted. Version 2 was made from 25 of the new rows and not promoted: a run starts when 10 more with a known "
        "answer have come in."
    )
    found_drift(store, rows=32, usable=50)
    assert tick().job_name == "colours__all"
    serve(tracking, 2)
    assert "not held against the data of version 2 yet" in tick().tags["finetune/why"], "another champion, other data"


def test_the_schedule_skips_with_the_reason_when_nothing_changed(
    task: Task, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, tracking: Tracking
) -> None:
    store = Store(root=str(tmp_path / "store"))
    folder = str(tmp_path_factory.mktemp("dagster"))
    write_json(Path(task.spec.base_model) / "config.json", {"model_type": "llama"})
    (Path(task.spec.base_model) / "model.safetensors").write_bytes(b"")

    def tick() -> Any:
        with (
            dg.DagsterInstance.local_temp(folder) as instance,
            dg.build_schedule_context(
                instance=instance,
                scheduled_execution_time=datetime(2026, 5, 4, 3, tzinfo=UTC),
                resources={"store": store, "tracking": tracking},
            ) as context,
        ):
            return retraining_schedule(task)(context)

    asked = tick()
    assert isinstance(asked, dg.RunRequest)
    assert asked.run_key == "schedule-2026-05-04T03:00-first"
    world = release.present_inputs(task, store, tracking)
    step = release.PIPELINE.steps["model_version"]
    versions = release.PIPELINE.versions(task, world, store.artifacts())
    inputs = {need: versions[need] for need in step.needs}

    def made(builder: Builder) -> None:
        builder.facts["model_version"] = 4
        record = {"name": "colours", "model_version": 4, "merged_version": "m"}
        write_json(builder.folder / "model_version.json", record)

    store.artifacts().build(
        task.name,
        "model_version",
        code_version=step.code_version,
        inputs=inputs,
        settings=step.settings(task.spec, world),
        make=made,
    )
    lost = tick()
    assert isinstance(lost, dg.RunRequest), "the registry does not hold that version: it is registered again"
    serve(tracking, 1)
    for _ in range(2):
        tracking.client().create_model_version("colours", source="file:///nothing", tags={"merged_version": "m"})
    tracking.client().delete_registered_model_alias("colours", registry.CHAMPION)
    response = tick().skip_message
    assert (
        response == "nothing changed since the last candidate (version 4), which was not promoted; there is no champion"
    )


def _job() -> dg.JobDefinition:
    @dg.job
    def nothing() -> None: ...

    return nothing


def test_a_champion_that_serves_worse_raises_the_alarm_and_is_rolled_back_where_the_spec_allows_it(
    project: Project, task: Task, tmp_path: Path, instance: dg.DagsterInstance, tracking: Tracking
) -> None:
    serve(tracking, 2)
    tracking.client().set_registered_model_alias("colours", registry.PREVIOUS, "1")

    resources = {"store": Store(root=str(tmp_path / "store")), "tracking": tracking}

    def tick(cursor: str | None = None) -> Any:
        context = dg.build_sensor_context(instance=instance, resources=resources, cursor=cursor)
        return champion_sensor(load_task(project.folder))(context)

    def check() -> Any:
        return task_checks(task)[0](**resources)

    def served(version: str, n: int, flagged: int) -> list[dict[str, Any]]:
        line = {"timestamp": "2026-05-01T10:00:00Z", "output": "blue", "model_version": f"colours/{version}"}
        rows = [{**line, "id": f"{version}-{i}", "input": f"fire {version} {i}"} for i in range(n)]
        return [{**r, "feedback": {"flag": "wrong"}} if i < flagged else r for i, r in enumerate(rows)]

    path = task.folder / "logs" / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in [*served("1", 60, 3), *served("2", 49, 30)]))
    assert "too few to compare" in tick().skip_message
    with path.open("a") as file:
        file.write(json.dumps({**served("2", 50, 0)[49]}) + "\n")
    response = tick()
    assert response.skip_reason.skip_message.startswith(
        "ALARM: 60.0% of 50 answers of version 2 failed, 5.0% of 60 of 1"
    )
    observed, checked = response.asset_events
    assert "finetune rollback colours" in observed.description
    assert (checked.check_name, checked.passed, checked.metadata["rows"].value) == ("champion_serves_well", False, 50)
    assert not check().passed
    assert registry.champion(tracking, "colours") == 2, "only told"
    project.write_spec(retraining={"rollback": True})
    assert tick().skip_reason.skip_message.endswith("rolled back to version 1")
    assert registry.champion(tracking, "colours") == 1
    assert "champion alarm" in registry.version_tags(tracking, "colours", 2)[registry.ROLLED_BACK]
    again = tick("2")
    assert again.skip_reason.skip_message == "version 1 serves again after a rollback from version 2"
    assert [event.passed for event in again.asset_events] == [True], "the check passes again, and is told once"
    assert tick().skip_message == "version 1 serves again after a rollback from version 2"
    assert check().passed


def test_automation_is_switched_on_and_off_and_tells_its_state(
    project: Project, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in project.environment().items():
        monkeypatch.setenv(name, value)
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text("load_from: [{python_module: finetune_pipeline.definitions}]")
    home = tmp_path / "dagster"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        on = switch(instance, workspace, task.name, "on")
        assert {row["name"] for row in on} == {f"colours__{n}" for n in ("new_logs", "drift", "champion", "retraining")}
        assert all(row["on"] for row in on)
        assert not any(row["on"] for row in switch(instance, workspace, task.name, "off"))


def test_a_broken_task_is_shown_and_the_others_load(task: Task) -> None:
    bad = {"broken": "trainning: {}", "dated": "owner: 2026-02-30", "nobodys": "owner: nobody", "a.b": ""}
    for name, line in bad.items():
        (task.folder.parent / name).mkdir()
        text = f"name: {name}\ndescription: d\nsystem_prompt: s\noutput: {{kind: text}}\n{line}\n"
        (task.folder.parent / name / "task.yaml").write_text(text)
    repository = build_definitions(task.folder.parent).get_repository_def()
    keys = {key.to_user_string() for key in repository.assets_defs_by_key}
    assert {k.split("/")[0][:3] for k in keys if k.endswith("/broken_task_spec")} == {"bro", "dat", "nob", "a_b"}
    assert "colours/adapter" in keys
    assert not [job for job in repository.job_names if job.startswith("broken")]
    shown = repository.assets_defs_by_key[dg.AssetKey(["broken", "broken_task_spec"])]
    assert "did you mean 'training'?" in next(iter(shown.descriptions_by_key.values()))
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([shown], instance=instance, raise_on_error=False)
    assert not result.success
