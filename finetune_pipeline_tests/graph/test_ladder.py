"""The ladder on a tiny model in the real graph: every rung, and resuming after kills."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.evaluation.predictions import API, read_by_model
from finetune_pipeline.evaluation.prompts import WITHOUT_LABELS
from finetune_pipeline.pipeline import PIPELINE, STEPS
from finetune_pipeline_tests.graph.disturbed import kill_run, wait_for
from finetune_pipeline_tests.graph.project import LORA, Finished, Project
from finetune_pipeline_tests.openai_server import Server, openai_server

CLIMBED = [step for step in STEPS if step.asked_for and step.name != "tuned_rungs"]
BASELINE = {"shots": [0, 2], "max_new_tokens": 6, "batch_size": 8, "rows": 20}
SETTINGS: dict[str, Any] = {"ladder": {"pilot": [0.25, 0.5]}, "baseline": BASELINE, "training": LORA}


def climb(project: Project, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and output of ``finetune advise --measure --json``."""
    process = project.finetune("advise", project.folder.name, "--measure", *options, "--json")
    output = json.loads(process.stdout) if process.stdout.strip() else {}
    assert "rungs" in output, process.stdout[-2000:] + process.stderr[-3000:]
    return process.returncode, output


def without_times(output: dict[str, Any]) -> dict[str, Any]:
    """A ladder's output without times and paths, which differ between runs."""
    rungs = [{k: v for k, v in rung.items() if k not in ("p50", "p95")} for rung in output["rungs"]]
    points = [{k: v for k, v in point.items() if k != "seconds"} for point in output["points"]]
    return {**output, "rungs": rungs, "points": points, "page": ""}


@pytest.fixture(scope="module")
def api() -> Iterator[Server]:
    """The server of baseline.endpoint."""
    with openai_server(lambda body, repeats: "blue") as server:
        yield server


@pytest.fixture(scope="module")
def climbed(finished: Finished, api: Server, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A project after an undisturbed ladder."""
    settings = {**SETTINGS, "baseline": {**BASELINE, "endpoint": {"url": api.url, "model": "large"}}}
    project = Project.continued(finished.project, tmp_path_factory.mktemp("ladder"), "few_shot_baseline", **settings)
    return Finished(project, *climb(project))


def test_every_rung_answers_the_same_rows_and_reads_what_dagster_shows(climbed: Finished) -> None:
    project, code, output = climbed
    names = [rung["name"] for rung in output["rungs"]]
    assert {"linear", "commonest", "prompt", "prompt_restricted", "retrieve"} <= set(names)
    answers = read_by_model(project.artifact("few_shot_baseline") / "predictions.parquet")
    assert output["rows"] == len(answers["zero_shot"]) == len(answers[WITHOUT_LABELS]) >= 10
    assert API + "zero_shot" in answers and API + WITHOUT_LABELS not in answers, "an API model cannot guess labels"
    assert code == (0 if output["decision"] == "fine_tune" else 2)
    assert [point["share"] for point in output["points"]] in ([0.25], [0.25, 0.5])
    assert all(rung["p50"] > 0 for rung in output["rungs"] if rung["kind"] != "api"), "local rungs must be timed"
    assert {"api", "api_restricted"} & set(names)
    assert output["stands"] in names and output["sentence"]
    assert "every rung on the same rows" in Path(output["page"]).read_text("utf-8").lower()
    for step in CLIMBED:
        manifest = json.loads((project.artifact(step.name) / "artifact.json").read_text("utf-8"))
        assert set(manifest["opened"]) <= set(step.needs), "an input is missing from the lineage"


def test_the_tuned_model_stands_on_the_same_ladder_and_the_rest_is_not_asked_or_trained_again(
    climbed: Finished, api: Server
) -> None:
    project, _, before = climbed
    paid, artifacts = len(api.requests), {step.name: project.artifact(step.name) for step in CLIMBED}
    code, output = climb(project, "--tuned")
    assert [rung["name"] for rung in output["rungs"]][-2:] == ["tuned", "tuned_retrieve"]
    values = {rung["name"]: rung["value"] for rung in output["rungs"] if not rung["name"].startswith("tuned")}
    assert values == {rung["name"]: rung["value"] for rung in before["rungs"]}
    assert (code == 0) == (output["decision"] == "fine_tune") == output["stands"].startswith("tuned")
    manifest = json.loads((project.artifact("tuned_rungs") / "artifact.json").read_text("utf-8"))
    assert set(manifest["opened"]) <= set(PIPELINE.steps["tuned_rungs"].needs)
    assert {step.name: project.artifact(step.name) for step in CLIMBED} == artifacts
    assert len(api.requests) == paid, "paid twice"


def test_killed_in_its_pilot_the_ladder_ends_as_if_undisturbed(climbed: Finished, api: Server, tmp_path: Path) -> None:
    """Kills the ladder after the pilot's first training. The rerun reuses it."""
    undisturbed, code, output = climbed
    settings = {**SETTINGS, "baseline": undisturbed.spec["baseline"]}
    project = Project.continued(undisturbed, tmp_path, "pilot", **settings)
    paid = len(api.requests)
    work = project.home / "artifacts" / "colours" / ".work"

    def trainings() -> dict[Path, int]:
        """The finished trainings with their modification times."""
        return {path: path.stat().st_mtime_ns for path in work.glob("pilot/*/*_rows/training.json")}

    def start() -> subprocess.Popen[str]:
        command = project.command("advise", "colours", "--measure", "--json")
        files = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env=project.environment(), text=True, start_new_session=True, **files)

    run = start()
    assert wait_for(run, lambda: len(trainings()) >= 1), "the run ended before it could be killed"
    finished_trainings = trainings()
    kill_run(run)
    assert not list((project.home / "artifacts" / "colours" / "pilot").glob("*/artifact.json"))
    run = start()
    assert wait_for(run, lambda: len(trainings()) > len(finished_trainings)), "nothing was left to train"
    assert finished_trainings.items() <= trainings().items()
    stdout, _ = run.communicate()
    assert (run.returncode, without_times(json.loads(stdout))) == (code, without_times(output))
    assert len(api.requests) == paid, "paid twice"
