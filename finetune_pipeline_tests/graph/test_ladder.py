"""The ladder on a tiny model in the real graph: every rung, the call budget, and resuming after kills."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.baseline.prompt_search import instructions
from finetune_pipeline.evaluation.predictions import read_predictions
from finetune_pipeline.pipeline import PIPELINE, STEPS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.graph.disturbed import kill_run, wait_for
from finetune_pipeline_tests.graph.project import LORA, Finished, Project
from finetune_pipeline_tests.openai_server import Server, openai_server

CLIMBED = [step for step in STEPS if step.asked_for and step.name != "tuned_rungs"]
BASELINE = {"shots": [0, 2], "max_new_tokens": 6, "batch_size": 8, "rows": 20}
SETTINGS: dict[str, Any] = {"ladder": {"calls": 112, "pilot": [0.25, 0.5]}, "baseline": BASELINE, "training": LORA}
INSTRUCTIONS = ["What burns is red. Say red or blue.", "What is wet is blue. Say red or blue."]


def api_model(body: dict[str, Any], _repeats: int) -> str:
    """Writes instructions if asked to, and answers blue to every row."""
    return f"Here they are: {json.dumps(INSTRUCTIONS)}" if wants_instructions(body) else "blue"


def wants_instructions(body: dict[str, Any]) -> bool:
    return "different system prompts" in body["messages"][-1]["content"]


def climb(project: Project, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and output of ``finetune ladder --json``."""
    process = project.finetune("ladder", project.folder.name, *options, "--json")
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
    with openai_server(api_model) as server:
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
    assert {"linear", "commonest", "prompt", "prompt_restricted", "optimised", "retrieve"} <= set(names)
    assert output["rows"] == len(read_predictions(project.artifact("prompt_search") / "predictions.parquet")) >= 10
    assert code == (0 if output["decision"] == "fine_tune" else 2)
    assert [point["share"] for point in output["points"]] in ([0.25], [0.25, 0.5])
    assert all(rung["p50"] > 0 for rung in output["rungs"] if rung["kind"] != "api"), "local rungs must be timed"
    assert {"api", "api_restricted"} & set(names)
    assert output["stands"] in names and output["sentence"]
    assert "every rung on the same rows" in Path(output["page"]).read_text("utf-8").lower()
    for step in CLIMBED:
        manifest = json.loads((project.artifact(step.name) / "artifact.json").read_text("utf-8"))
        assert set(manifest["opened"]) <= set(step.needs), "an input is missing from the lineage"


def test_the_search_keeps_to_its_calls_and_scores_a_winner_on_rows_it_never_saw(climbed: Finished) -> None:
    project, _, output = climbed
    facts = project.facts("prompt_search")
    assert len(facts["searches"]) == 2
    assert 0 < facts["calls"] == sum(search["calls"] for search in facts["searches"]) <= 112
    for search in facts["searches"]:
        assert search["winner"].startswith("instruction_") != ("not likely better" in search["stopped"]), search
    predictions = read_predictions(project.artifact("prompt_search") / "predictions.parquet")
    assert len({row["example_id"] for row in predictions}) == len(predictions) == output["rows"]


def test_the_api_model_writes_instructions_once_and_they_are_searched(climbed: Finished, api: Server) -> None:
    project = climbed.project
    assert sum(map(wants_instructions, api.requests)) == 1
    scores = project.facts("prompt_search")["searches"][0]["rounds"][0]["scores"]
    own, _, *others = instructions(TaskSpec.model_validate(project.spec), INSTRUCTIONS)
    assert others[: len(INSTRUCTIONS)] == INSTRUCTIONS
    assert {f"instruction_{number}_zero_shot" for number in (1, 2, 3)} <= set(scores), own


def test_the_tuned_model_stands_on_the_same_ladder_and_the_rest_is_not_asked_or_trained_again(
    climbed: Finished, api: Server
) -> None:
    project, _, before = climbed
    paid, artifacts = len(api.requests), {step.name: project.artifact(step.name) for step in CLIMBED}
    code, output = climb(project, "--tuned")
    assert [rung["name"] for rung in output["rungs"]][-3:] == ["tuned", "tuned_retrieve", "tuned_optimised"]
    values = {rung["name"]: rung["value"] for rung in output["rungs"] if not rung["name"].startswith("tuned")}
    assert values == {rung["name"]: rung["value"] for rung in before["rungs"]}
    assert (code == 0) == (output["decision"] == "fine_tune") == output["stands"].startswith("tuned")
    manifest = json.loads((project.artifact("tuned_rungs") / "artifact.json").read_text("utf-8"))
    assert set(manifest["opened"]) <= set(PIPELINE.steps["tuned_rungs"].needs)
    assert {step.name: project.artifact(step.name) for step in CLIMBED} == artifacts
    assert len(api.requests) == paid, "paid twice"


def test_killed_in_each_rung_the_ladder_ends_as_if_undisturbed(climbed: Finished, api: Server, tmp_path: Path) -> None:
    """Kills the ladder in the search and in the pilot. Reruns reuse the answers and trainings from before a kill."""
    undisturbed, code, output = climbed
    settings = {**SETTINGS, "baseline": undisturbed.spec["baseline"]}
    project = Project.continued(undisturbed, tmp_path, "prompt_search", **settings)
    paid = len(api.requests)
    work = project.home / "artifacts" / "colours" / ".work"

    def start() -> subprocess.Popen[str]:
        command = project.command("ladder", "colours", "--json")
        files = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env=project.environment(), text=True, start_new_session=True, **files)

    def wait_for_results(run: subprocess.Popen[str], pattern: str, count: int) -> dict[Path, int]:
        """Wait for `count` result files. Returns the files with their modification times."""
        assert wait_for(run, lambda: len(list(work.glob(pattern))) >= count), "the run ended before it could be killed"
        return {path: path.stat().st_mtime_ns for path in work.glob(pattern)}

    rounds, trainings = "prompt_search/*/fold_*/*/result.json", "pilot/*/*_rows/training.json"
    run = start()
    finished_rounds = wait_for_results(run, rounds, 1)
    kill_run(run)
    run = start()
    assert finished_rounds.items() <= wait_for_results(run, rounds, len(finished_rounds) + 1).items()
    finished_trainings = wait_for_results(run, trainings, 1)
    kill_run(run)
    assert not list((project.home / "artifacts" / "colours" / "pilot").glob("*/artifact.json"))
    run = start()
    assert finished_trainings.items() <= wait_for_results(run, trainings, len(finished_trainings) + 1).items()
    stdout, _ = run.communicate()
    assert (run.returncode, without_times(json.loads(stdout))) == (code, without_times(output))
    assert len(api.requests) - paid <= 1, "only this project's instructions may be bought again"
