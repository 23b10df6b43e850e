"""Sensors and schedule against a real Dagster instance: when they request a run, when they skip, and why; and a broken task
beside sound ones."""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import pytest
import yaml

from finetune_pipeline.cli.automate import switch
from finetune_pipeline.data.examples import Example, example_id, write_examples
from finetune_pipeline.definitions import build_definitions
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.engine.store import Artifact, ArtifactStore, Builder
from finetune_pipeline.evaluation.calibration import PROBABILITY, AutomationPromise, ReleasedProbability, digest_of
from finetune_pipeline.orchestration import release
from finetune_pipeline.orchestration.assets import task_checks, task_jobs
from finetune_pipeline.orchestration.dagster_internals import instigators
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.orchestration.sensors import champion_sensor, drift_sensor, new_logs_sensor, retraining_schedule
from finetune_pipeline.production.log_merging import cached_choice, read_logs
from finetune_pipeline.production.log_store import log_store
from finetune_pipeline.production.retraining import Decision
from finetune_pipeline.production.used_rows import waiting_rows
from finetune_pipeline.spec import Task, load_task
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline_tests.graph.project import Project
from finetune_pipeline_tests.shared import copy_database
from finetune_pipeline_tests.unit.orchestration.jobs import nothing
from finetune_pipeline_tests.unit.production.releases import released_facts
from finetune_pipeline_tests.unit.production.streams import drift_of

FIRST_ROW = datetime(2026, 5, 1, 10, tzinfo=UTC).timestamp()
DAY = 86_400
LOG_ROW = {"timestamp": "2026-05-01T10:00:00Z", "output": "blue", "model_version": "1"}
FAILED, SUCCEEDED, STARTED = (dg.DagsterRunStatus[name] for name in ("FAILURE", "SUCCESS", "STARTED"))


class Automation:
    """A task with logs, a Dagster instance, an artifact store and a model registry, on which sensors are evaluated."""

    def __init__(self, project: Project, instance: dg.DagsterInstance, tracking: Tracking) -> None:
        self.project, self.instance, self.tracking = project, instance, tracking
        self.store = ArtifactStore(project.root / "store")
        self.resources = {"finetune_store": Store(root=str(self.store.root)), "finetune_tracking": tracking}
        self.logs = project.folder / "logs" / "a.jsonl"
        self.logs.parent.mkdir()

    @property
    def task(self) -> Task:
        return load_task(self.project.folder)

    def tick(self, make_sensor: Any, cursor: str | None = None) -> Any:
        """Evaluate a sensor."""
        with_jobs = make_sensor in (drift_sensor, champion_sensor)
        arguments = (self.task, task_jobs(self.task)) if with_jobs else (self.task,)
        sensor = make_sensor(*arguments)
        resources = {name: self.resources[name] for name in sensor.required_resource_keys}
        return sensor(dg.build_sensor_context(instance=self.instance, resources=resources, cursor=cursor))

    def add_run(self, status: dg.DagsterRunStatus) -> dg.DagsterRun:
        """Record a run of the complete graph in Dagster."""
        tags = {"finetune/task": "colours", "finetune/stage": "all"}
        return self.instance.create_run_for_job(nothing, tags=tags, status=status)

    def write_rows(self, rows: Sequence[dict[str, Any]]) -> None:
        self.logs.write_text("".join(json.dumps(r) + "\n" for r in rows))

    def write_log(self, n: int) -> None:
        """Log `n` answered rows, the first two with a correction."""
        rows = [{**LOG_ROW, "id": str(i), "input": f"fire {i}"} for i in range(n)]
        self.write_rows([{**row, "feedback": {"label": "red"}} for row in rows[:2]] + rows[2:])

    def artifact(self, step: str, facts: dict[str, Any], inputs: dict[str, str], rows: Any = None) -> Artifact:
        def make(builder: Builder) -> None:
            builder.facts.update(facts)
            if rows is not None:
                (builder.folder / "files").mkdir()
                write_examples(builder.folder / "files/production.jsonl", rows)

        return self.store.build("colours", step, code_version="1", inputs=inputs, settings=facts, make=make)

    def add_candidate(
        self, rows: Any = (), champion: int | None = 1, number: int = 1, splits: str = "s", promoted: bool = True
    ) -> Artifact:
        """Store the artifacts of a registered candidate trained on these production rows."""
        data = self.artifact("splits", {"name": splits}, {})
        raw = self.artifact("raw_examples", {"of": number}, {}, rows)
        report = self.artifact("evaluation_report", {}, {"raw_examples": raw.version, "splits": data.version})
        facts = released_facts(number, champion=champion, promoted=promoted)
        return self.artifact("model_version", facts, {"evaluation_report": report.version})

    def record_drift(self, rows: int, usable: int, newest: str | None = None) -> None:
        """Store a drift report on the first candidate's data, and the decision to retrain."""
        data = next(a for a in self.store.all_versions("colours", "splits") if a.facts["name"] == "s")
        since = "2026-05-01T10:00:00+00:00"
        facts = drift_of(
            "label_mix", rows=rows, trained_on=data.version, newest=newest, sentence="Drifted.", since=since
        )
        report = self.artifact("drift_report", msgspec.to_builtins(facts), {})
        rest: dict[str, Any] = {"wait_for_rows": None, "gain": None, "curve": None, "reasons": []}
        decision = Decision(retrain=True, usable_rows=usable, sentence="Train again.", **rest)
        self.artifact("retraining_decision", msgspec.to_builtins(decision), {"drift_report": report.version})

    def set_champion(self, version: int) -> None:
        """Make a version champion. The first call registers two versions."""
        client = self.tracking.client()
        if not client.search_registered_models():
            client.create_registered_model("colours")
            for _ in range(2):
                client.create_model_version("colours", source="file:///nothing")
        client.set_registered_model_alias("colours", registry.CHAMPION, str(version))


@pytest.fixture(scope="module")
def mlflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a prepared MLflow store."""
    home = tmp_path_factory.mktemp("home")
    copy_database(home / "mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_HOME", str(home))
        Tracking().prepare()
    return home


@pytest.fixture
def world(tmp_path: Path, mlflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Automation]:
    (tmp_path / "base").mkdir()
    logs, drift = {"min_new_rows": 2, "settle_seconds": 60}, {"window_rows": 30, "action": "start"}
    retraining = {"longest_wait_days": 100_000}
    project = Project(tmp_path, base=tmp_path / "base", logs=logs, retraining=retraining, drift=drift)
    shutil.copytree(mlflow_home, project.home, dirs_exist_ok=True)
    monkeypatch.setenv("FINETUNE_HOME", str(project.home))
    with dg.DagsterInstance.ephemeral() as instance:
        yield Automation(project, instance, Tracking())


def example(n: int) -> Example:
    messages = [{"role": "user", "content": f"ember {n}"}, {"role": "assistant", "content": "red"}]
    return Example(example_id(messages), messages, label="red", origin="production", tags=[f"log:{n}"])


def test_the_sensor_waits_asks_once_gives_its_reason_and_tries_a_failed_batch_three_times(world: Automation) -> None:
    def tick() -> Any:
        return world.tick(new_logs_sensor)

    world.project.write_spec(logs={**world.project.spec["logs"], "mlflow_experiment": "nothing"})
    assert "there is no experiment 'nothing'" in tick().skip_message
    world.project.write_spec(logs={**world.project.spec["logs"], "mlflow_experiment": None})
    assert tick().skip_message == "0 of 2 corrected new rows in logs/"
    world.write_log(2)
    request = tick()
    assert isinstance(request, dg.RunRequest)
    assert request.tags["finetune/why"] == "2 corrected new rows, 2 required"
    assert tick().run_key == request.run_key, "the same rows must give the same run key, which Dagster starts once"
    keys = {request.run_key}
    for attempt in (2, 3):
        world.add_run(FAILED)
        retry = tick()
        assert f"attempt {attempt} of 3" in retry.tags["finetune/why"]
        keys.add(retry.run_key)
    assert len(keys) == 3, "each attempt needs its own run"
    last = world.add_run(FAILED)
    message = tick().skip_message
    assert "a person must act" in message and last.run_id[:8] in message
    world.add_run(SUCCEEDED)
    assert isinstance(tick(), dg.RunRequest), "a successful run resets the attempts"
    world.add_run(STARTED)
    assert "is in progress" in tick().skip_message


def test_rows_of_a_registered_candidate_wait_no_more_and_old_rows_do_not_wait_for_ever(world: Automation) -> None:
    world.write_log(1)
    sentence = waiting_rows(world.task, world.store, FIRST_ROW + 3 * DAY).sentence
    assert "the oldest has waited 3.0 of at most 100000 days" in sentence
    world.project.write_spec(retraining={"longest_wait_days": 3})
    waiting = waiting_rows(world.task, world.store, time.time())
    assert (waiting.ready, waiting.usable) == (True, 1) and "longer than 3" in waiting.sentence
    world.add_candidate(cached_choice(world.task.spec, read_logs(world.task, world.store)).examples)
    waiting = waiting_rows(world.task, world.store, time.time())
    assert (waiting.ready, waiting.usable) == (False, 0)


def test_the_drift_sensor_looks_after_a_window_and_acts_as_the_spec_says(world: Automation) -> None:
    def tick(action: str) -> Any:
        world.project.write_spec(drift={"window_rows": 30, "action": action})
        return world.tick(drift_sensor)

    assert "there is no candidate yet" in tick("start").skip_message
    world.add_candidate(champion=None)
    assert "there is no champion yet" in tick("start").skip_message
    world.set_champion(1)
    world.write_log(29)
    assert tick("start").skip_message == "29 production rows, a window has 30"
    world.write_log(30)
    request = tick("start")
    assert (request.job_name, request.tags["finetune/trigger"]) == ("colours__production", "drift")
    world.record_drift(rows=30, usable=2)
    request = tick("start")
    assert (request.job_name, request.tags["finetune/why"]) == ("colours__all", "Drifted. Train again.")
    assert tick("propose").skip_message == "Drifted. Train again. Proposed: `finetune run colours`."
    assert tick("tell").skip_message == "Drifted. Train again."
    world.write_log(60)
    assert tick("tell").tags["finetune/why"] == "30 new rows: checking production"


def test_a_window_of_new_rows_is_looked_at_though_as_many_old_ones_were_removed(world: Automation) -> None:
    world.set_champion(1)
    world.add_candidate()
    world.write_log(30)
    world.record_drift(rows=60, usable=2, newest="2026-05-01T09:59:59+00:00")
    world.project.write_spec(drift={"window_rows": 30, "action": "tell"})
    first = world.tick(drift_sensor)
    assert first.tags["finetune/why"] == "30 new rows: checking production"
    later = [{**LOG_ROW, "id": str(i), "input": "fire", "timestamp": "2026-05-02T10:00:00Z"} for i in range(100, 130)]
    log_store(world.task, world.store).rewrite(lambda row: None)
    world.write_rows(later)
    assert world.tick(drift_sensor).run_key != first.run_key, "Dagster would take the run for already started"
    world.record_drift(rows=60, usable=2, newest="2026-05-02T10:00:00+00:00")
    assert world.tick(drift_sensor).skip_message == "Drifted. Train again."
    world.write_rows([{**row, "id": f"x{row['id']}", "timestamp": "2198-05-02T10:00:00Z"} for row in later])
    world.record_drift(rows=60, usable=2, newest="2199-01-01T00:00:00+00:00")  # a client's clock was wrong
    assert world.tick(drift_sensor).tags["finetune/why"] == "30 new rows: checking production"


def test_a_drift_starts_one_run_before_the_next_look_and_no_second_one(world: Automation) -> None:
    world.set_champion(1)
    world.add_candidate()
    world.write_log(60)
    world.record_drift(rows=30, usable=25)
    assert world.tick(drift_sensor).job_name == "colours__all", "the retraining goes before a new drift report"
    world.add_run(FAILED)
    assert "attempt 2 of 3" in world.tick(drift_sensor).tags["finetune/why"]
    world.add_run(SUCCEEDED)
    assert world.tick(drift_sensor).tags["finetune/why"] == "30 new rows: checking production"
    world.project.write_spec(drift={"window_rows": 31, "action": "start"})
    message = world.tick(drift_sensor).skip_message
    assert message.startswith("Drifted. Train again. Run "), "one run per drift"


def test_a_refused_candidate_is_not_made_again_until_as_many_rows_came_in_as_it_had(world: Automation) -> None:
    world.set_champion(1)
    world.add_candidate()
    world.write_log(30)
    world.record_drift(rows=30, usable=25)
    world.add_candidate([example(i) for i in range(25)], number=2, splits="later", promoted=False)
    world.record_drift(rows=31, usable=40)
    assert world.tick(drift_sensor).skip_message == (
        "Drifted. Version 2 was made from 25 of the new rows and not promoted: a run starts when 10 more with a known "
        "answer have come in."
    )
    world.record_drift(rows=32, usable=50)
    assert world.tick(drift_sensor).job_name == "colours__all"
    world.set_champion(2)
    why = world.tick(drift_sensor).tags["finetune/why"]
    assert "not yet compared with the data of version 2" in why, "the drift report is on another champion's data"


@pytest.mark.parametrize(("champions_data", "more"), [("kept", 4), ("forgotten", 14)])
def test_rows_that_the_champion_has_learned_are_none_of_a_refused_candidates_new_ones(
    world: Automation, champions_data: str, more: int
) -> None:
    """25 rows, of which the champion knows 5: 20, and as many again, less the 36 there are. Without its data it is not known."""
    world.set_champion(1)
    world.add_candidate([example(i) for i in range(5)])
    world.write_log(30)
    world.record_drift(rows=30, usable=36)
    world.add_candidate([example(i) for i in range(25)], champion=1, number=2, splits="later", promoted=False)
    if champions_data == "forgotten":
        data = next(a for a in world.store.all_versions("colours", "splits") if a.facts["name"] == "s")
        shutil.rmtree(data.folder)
    message = world.tick(drift_sensor).skip_message
    learned = 25 if champions_data == "forgotten" else 20
    assert f"made from {learned} of the new rows and not promoted: a run starts when {more} more" in message


def test_the_schedule_skips_with_the_reason_when_nothing_changed(world: Automation, tmp_path: Path) -> None:
    task, client = world.task, world.tracking.client()
    (tmp_path / "dagster").mkdir()
    write_json(Path(task.spec.base_model) / "config.json", {"model_type": "llama"})
    (Path(task.spec.base_model) / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")

    def tick() -> Any:
        at = datetime(2026, 5, 4, 3, tzinfo=UTC)
        with (
            dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance,
            dg.build_schedule_context(instance, scheduled_execution_time=at, resources=world.resources) as context,
        ):
            return retraining_schedule(task)(context)

    request = tick()
    assert isinstance(request, dg.RunRequest) and request.run_key == "schedule-2026-05-04T03:00-first"
    run_inputs = release.present_inputs(task, world.store, world.tracking)
    step = release.PIPELINE.steps["model_version"]
    versions = release.PIPELINE.versions(task, run_inputs, world.store)

    def register(builder: Builder) -> None:
        builder.facts.update(released_facts(4))
        record = {"name": "colours", "model_version": 4, "adapter_version": "a"}
        write_json(builder.folder / "model_version.json", record)

    key = {"code_version": step.code_version, "settings": step.settings(task.spec, run_inputs)}
    key["inputs"] = {need: versions[need] for need in step.needs}
    world.store.build(task.name, "model_version", **key, make=register)
    assert isinstance(tick(), dg.RunRequest), "a version missing from the registry must be registered again"
    world.set_champion(1)
    for _ in range(2):
        client.create_model_version("colours", source="file:///nothing", tags={"finetune.adapter_version": "a"})
    client.delete_registered_model_alias("colours", registry.CHAMPION)
    assert tick().skip_message == (
        "nothing changed since the last candidate (version 4), which was not promoted; there is no champion"
    )


def register_as(world: Automation, adapter: str, **tags: str) -> str:
    """Register a version made from this adapter with the tags of a promoted release. Returns its number."""
    usual = {"merged_version": "m", "dataset_version": "d", "compared_with": "null", "gates": "passed"}
    usual |= {"adapter_version": adapter, "finetune.adapter_version": adapter, "evaluation_version": "e"}
    client = world.tracking.client()
    if not client.search_registered_models():
        client.create_registered_model("colours")
    number = client.create_model_version("colours", source="file:///nothing", tags=usual | tags).version
    return str(number)


def test_a_model_is_known_by_its_training_however_it_is_asked(world: Automation) -> None:
    """The champion, or the one before it, is judged beside the model it was promoted against, never beside itself."""
    write_json(Path(world.task.spec.base_model) / "config.json", {"model_type": "llama"})
    (Path(world.task.spec.base_model) / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")

    def present() -> Any:
        return release.present_inputs(world.task, world.store, world.tracking)

    client, versions = world.tracking.client(), release.PIPELINE.versions(world.task, present(), world.store)
    assert present().promoted is None
    first = register_as(world, versions["adapter"], evaluation_version=versions["evaluation_report"])
    client.set_registered_model_alias("colours", registry.CHAMPION, first)
    assert (present().champion, present().promoted) == (None, None), "nothing changed since its promotion"
    for section, key, value in (
        ("baseline", "batch_size", 4),
        ("evaluation", "precision", "float32"),
        ("gates", "min_gain", 0.02),
    ):
        world.project.write_spec(**{section: {**world.project.spec.get(section, {}), key: value}})
        assert (present().champion, present().promoted) == (None, {"model_version": 1, "serves": True}), key
        assert release.PIPELINE.versions(world.task, present(), world.store)["adapter"] == versions["adapter"]
    second = register_as(world, "another", merged_version="m2")
    client.set_registered_model_alias("colours", registry.CHAMPION, second)
    client.set_registered_model_alias("colours", registry.PREVIOUS, first)
    assert (present().champion, present().promoted) == (None, {"model_version": 1, "serves": False})
    world.project.write_spec(training={**world.project.spec["training"], "learning_rate": 0.002})
    rival = {"adapter": "another", "merged": "m2", "model_version": 2}
    assert (present().champion, present().promoted) == (rival, None), "a new model"
    before = release.PIPELINE.versions(world.task, present(), world.store)
    client.set_model_version_tag("colours", second, registry.FORGOTTEN, registry.FORGOTTEN_REASON)
    assert present().champion == {**rival, "forgotten": True}
    after = release.PIPELINE.versions(world.task, present(), world.store)
    assert before["test_predictions"] == after["test_predictions"], "no model need answer again"
    assert before["evaluation_report"] != after["evaluation_report"]


def test_a_champion_that_serves_worse_raises_the_alarm_and_is_rolled_back_where_the_spec_allows_it(
    world: Automation,
) -> None:
    world.set_champion(2)
    world.tracking.client().set_registered_model_alias("colours", registry.PREVIOUS, "1")

    def check() -> Any:
        return task_checks(world.task)[0](**world.resources)

    def served(version: str, n: int, flagged: int) -> list[dict[str, Any]]:
        common = {**LOG_ROW, "model_version": f"colours/{version}"}
        rows = [{**common, "id": f"{version}-{i}", "input": f"fire {version} {i}"} for i in range(n)]
        return [{**row, "feedback": {"flag": "wrong"}} if i < flagged else row for i, row in enumerate(rows)]

    world.write_rows([*served("1", 60, 3), *served("2", 49, 30)])
    assert "too few to compare" in world.tick(champion_sensor).skip_message
    world.write_rows([*served("1", 60, 3), *served("2", 50, 30)])
    result = world.tick(champion_sensor)
    alarm = "ALARM: 60.0% of 50 answers of version 2 failed, 5.0% of 60 of 1"
    assert result.skip_reason.skip_message.startswith(alarm)
    observation, evaluation = result.asset_events
    assert "finetune rollback colours" in observation.description
    assert (evaluation.check_name, evaluation.passed) == ("champion_serves_well", False)
    assert evaluation.metadata["rows"].value == 50
    assert not check().passed and registry.champion(world.tracking, "colours") == 2, "rolled back without permission"
    world.project.write_spec(retraining={"rollback": True})
    client, forgotten = world.tracking.client(), ("colours", "1", registry.FORGOTTEN)
    client.set_model_version_tag(*forgotten, "yes")
    assert "it is not rolled back: colours version 1" in world.tick(champion_sensor).skip_reason.skip_message
    client.delete_model_version_tag(*forgotten)
    assert world.tick(champion_sensor).skip_reason.skip_message.endswith("rolled back to version 1")
    assert registry.champion(world.tracking, "colours") == 1
    assert "champion alarm" in registry.version_tags(world.tracking, "colours", 2)[registry.ROLLED_BACK]
    result = world.tick(champion_sensor, "2")
    assert result.skip_reason.skip_message == "version 1 serves again after a rollback from version 2"
    assert [event.passed for event in result.asset_events] == [True], "the passing check must be reported once"
    assert world.tick(champion_sensor).skip_message == "version 1 serves again after a rollback from version 2"
    assert check().passed


def test_a_broken_promise_is_an_alarm_a_failed_check_and_one_run_where_the_spec_allows_it(world: Automation) -> None:
    world.set_champion(2)
    promise = AutomationPromise(threshold=0.9, max_error=0.05)
    record: dict[str, Any] = {"merged_version": "m"}
    released = ReleasedProbability(digest=digest_of(record), promise=promise)

    def release(builder: Builder) -> None:
        builder.facts |= released_facts(2)
        write_json(builder.folder / "model_version.json", record | {PROBABILITY: msgspec.to_builtins(released)})

    world.store.build("colours", "model_version", code_version="1", settings={}, inputs={}, make=release)
    logs = {**world.project.spec["logs"], "sample_share": 1.0}
    world.project.write_spec(logs=logs, drift={"action": "tell"})

    def served(n: int, wrong: int, **more: Any) -> list[dict[str, Any]]:
        common = {**LOG_ROW, "model_version": "colours:2", "output": "red", "passed_on": False, **more}
        return [
            {**common, "id": f"{more}-{i}", "input": f"fire {i} {more}"}
            | {"feedback": {"label": "blue" if i < wrong else "red", "decided": f"2026-05-01T10:{i:02}:00Z"}}
            for i in range(n)
        ]

    def write(*rows: dict[str, Any]) -> None:
        """As `finetune review` writes decisions."""
        (world.logs.parent / "reviewed-ann.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))

    write(*served(40, 1), *served(30, 30, passed_on=True))
    quiet = world.tick(champion_sensor).skip_message
    assert "1 of 40 drawn and decided answers of version 2" in quiet and "42.9% of 70 rows were passed on" in quiet
    write(*served(40, 1), *served(30, 30, passed_on=True), *served(20, 12, probability=0.95))
    result = world.tick(champion_sensor)
    assert "surely broken since 2026-05-01" in result.skip_reason.skip_message and not result.run_requests
    _, evaluation = result.asset_events
    assert (evaluation.check_name, evaluation.passed) == ("champion_serves_well", False)
    assert evaluation.metadata["promise_wrong"].value == 13
    assert not task_checks(world.task)[0](**world.resources).passed
    world.project.write_spec(drift={"action": "start"}, retraining={"rollback": True})
    (request,) = world.tick(champion_sensor, "2").run_requests
    assert (request.run_key, request.job_name) == ("promise-2-first", "colours__all")
    assert "the promised error is broken" in request.tags["finetune/why"]
    assert registry.champion(world.tracking, "colours") == 2, "the previous version promises nothing better"


def test_automation_is_switched_on_and_off_and_tells_its_state_and_nothing_else(
    world: Automation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINETUNE_DATA", str(world.project.data))
    neighbour = world.project.data / "colours__eu"
    neighbour.mkdir()
    (neighbour / "task.yaml").write_text(yaml.safe_dump({**world.project.spec, "name": neighbour.name}))
    workspace, home = tmp_path / "workspace.yaml", tmp_path / "dagster"
    workspace.write_text("load_from: [{python_module: finetune_pipeline.definitions}]")
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance, instigators(instance, workspace) as loaded:
        monkeypatch.setattr("finetune_pipeline.cli.automate.instigators", lambda *_: nullcontext(loaded))
        on = switch(instance, workspace, "colours", "on")
        assert {row["name"] for row in on} == {f"colours__{n}" for n in ("new_logs", "drift", "champion", "retraining")}
        assert all(row["on"] for row in on)
        assert not any(row["on"] for row in switch(instance, workspace, neighbour.name, "status"))
        assert not any(row["on"] for row in switch(instance, workspace, "colours", "off"))
    assert "INFO" not in "".join(capfd.readouterr()), "the log of Dagster's code server must not be shown"


def test_a_broken_task_is_shown_and_the_others_load(world: Automation) -> None:
    invalid_lines = {"broken": "trainning: {}", "dated": "owner: 2026-02-30", "nobodys": "owner: nobody", "a.b": ""}
    for name, line in invalid_lines.items():
        (world.project.data / name).mkdir()
        text = f"name: {name}\ndescription: d\nsystem_prompt: s\noutput: {{kind: text}}\n{line}\n"
        (world.project.data / name / "task.yaml").write_text(text)
    repository = build_definitions(world.project.data).get_repository_def()
    keys = {key.to_user_string() for key in repository.assets_defs_by_key}
    assert {k.split("/")[0][:3] for k in keys if k.endswith("/broken_task_spec")} == {"bro", "dat", "nob", "a_b"}
    assert "colours/adapter" in keys
    assert not [job for job in repository.job_names if job.startswith("broken")]
    asset = repository.assets_defs_by_key[dg.AssetKey(["broken", "broken_task_spec"])]
    assert "did you mean 'training'?" in next(iter(asset.descriptions_by_key.values()))
    assert not dg.materialize([asset], instance=world.instance, raise_on_error=False).success
