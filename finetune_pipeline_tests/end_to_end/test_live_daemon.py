"""A champion that is a simple model, and one that is a classifier, under a live Dagster daemon: served and logged, retrained by the
log sensor without anybody's command, rolled back, and free of a forgotten person's rows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from finetune_pipeline.orchestration.dagster_internals import WORKSPACE
from finetune_pipeline.tracking import registry
from finetune_pipeline_tests.dagster_dev import Dev, dagster_dev
from finetune_pipeline_tests.graph.project import LORA, Project, easy_rows
from finetune_pipeline_tests.graph.test_shipped_kinds import SECRET, chat, files_with, serving
from finetune_pipeline_tests.skilled_model import make_skilled_model, raw_rows
from finetune_pipeline_tests.unit.processes import wait_until
from finetune_pipeline_tests.worlds.planted_world import World

SERVED = 24
"""Answers that people correct or confirm, which are as many as the sensor waits for."""
COMMON: dict[str, Any] = {
    "gates": {"champion": "not_worse", "champion_margin": 0.15, "max_regression": 0.3, "min_valid_share": 0.8},
    "logs": {
        "judging_share": 0.0,
        "max_user_share": 1.0,
        "max_family_share": 1.0,
        "settle_seconds": 0,
        "min_new_rows": SERVED,
    },
    "split": {"validation": 0.2, "test": 0.3},
}


def simple_project(root: Path) -> tuple[Project, list[dict[str, Any]]]:
    """One word decides, which TF-IDF learns. Returns the project and rows that production asks about."""
    project = Project(root, training=LORA, **COMMON)
    project.write_rows(easy_rows(300))
    return project, easy_rows(SERVED, seed=5)


def classifier_project(root: Path) -> tuple[Project, list[dict[str, Any]]]:
    """The order of words decides, which no simple model learns. Returns the project and rows that production asks about."""
    base = make_skilled_model(root / "skilled", steps=220, knowledge=False)
    training = {"method": "classifier", "learning_rate": 0.002, "epochs": 7}
    project = World(root / "project", base, training=training, **COMMON, ability={"suite": False, "files": []})
    return project, raw_rows(5, SERVED)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Any]:
    """Return a function that starts `dagster dev` on a project, as `finetune ui` does."""

    def start(project: Project) -> Any:
        home = {"DAGSTER_HOME": str(project.home / "dagster"), "MLFLOW_TRACKING_URI": project.tracking.uri()}
        return dagster_dev(tmp_path / "dev.log", project.environment() | home, "-w", str(WORKSPACE), cwd=project.root)

    yield start


def full_runs(project: Project, monkeypatch: pytest.MonkeyPatch) -> list[dg.DagsterRun]:
    with monkeypatch.context() as patch:
        patch.setenv("FINETUNE_HOME", str(project.home))
        patch.setenv("DAGSTER_HOME", str(project.home / "dagster"))
        with dg.DagsterInstance.get() as instance:
            return list(instance.get_runs(dg.RunsFilter(tags={"finetune/trigger": "new_logs"})))


@pytest.mark.parametrize(("kind", "make"), [("simple", simple_project), ("classifier", classifier_project)])
def test_a_champion_is_served_retrained_by_the_daemon_rolled_back_and_forgotten(
    kind: str, make: Any, tmp_path: Path, daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, asked = make(tmp_path / "w")
    tracking = project.tracking
    code, output = project.run()
    assert code == 0, output
    assert registry.version_tags(tracking, "colours", 1)["winner_kind"] == kind, output["verdict"]

    with serving(project) as ask:
        for i, row in enumerate(asked):
            text = f"{SECRET} {row['text']}" if i < SERVED // 2 else row["text"]
            reply = chat(ask, text, user="ann" if i < SERVED // 2 else "bob")
            assert reply["model"] == "colours:1"
            ask("/feedback", {"id": reply["id"], "label": row["label"]})

    with daemon(project) as dev:
        assert isinstance(dev, Dev)
        switched = project.finetune("automate", "colours", "--on", "--json")
        assert switched.returncode == 0, switched.stderr
        wait_until(lambda: registry.aliases(tracking, "colours").get("candidate") == 2, 900)
        (run,) = full_runs(project, monkeypatch)
        wait_until(lambda: dev.status(run.run_id) == "SUCCESS", 300)
        assert project.finetune("automate", "colours", "--off").returncode == 0
    assert f"{SERVED} corrected new rows" in run.tags["finetune/why"]
    assert project.facts("production_logs")["corrections"] == SERVED
    assert project.facts("test_predictions")["kinds"]["champion"] == kind
    assert project.facts("drift_report")["rows"] == SERVED
    # the gates refuse a tie with the champion: the new version is put into service as if it had been better
    with registry.open_registry(tracking) as client:
        client.set_model_version_tag("colours", "2", registry.GATES, registry.PASSED)
    registry.promote(tracking, "colours", 2)

    assert project.finetune("rollback", "colours", "--reason", "a test").returncode == 0
    assert registry.champion(tracking, "colours") == 1
    forgotten = project.finetune("forget", "colours", "--user", "ann", "--json")
    assert forgotten.returncode == 0, forgotten.stderr
    assert json.loads(forgotten.stdout)["blocked"] == [2], "version 1 had no row of hers"
    assert files_with(project.home, SECRET.encode()) == []
    with serving(project) as ask:
        reply = chat(ask, "stone cloud fire", store=False)
        assert (reply["model"], reply["choices"][0]["message"]["content"]) == ("colours:1", "red")
