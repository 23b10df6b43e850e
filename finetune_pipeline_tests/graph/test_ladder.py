"""The ladder on a tiny model: every rung in the real graph, its budget kept, killed and taken up again."""

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
WRITTEN = ["What burns is red. Say red or blue.", "What is wet is blue. Say red or blue."]


def api_model(body: dict[str, Any], _seen: int) -> str:
    """Writes instructions where they are asked for, and says blue to every row."""
    return f"Here they are: {json.dumps(WRITTEN)}" if wants_instructions(body) else "blue"


def wants_instructions(body: dict[str, Any]) -> bool:
    return "different system prompts" in body["messages"][-1]["content"]


def climb(project: Project, *options: str) -> tuple[int, dict[str, Any]]:
    """``finetune ladder --json``: exit code and answer."""
    done = project.finetune("ladder", project.folder.name, *options, "--json")
    answer = json.loads(done.stdout) if done.stdout.strip() else {}
    assert "rungs" in answer, done.stdout[-2000:] + done.stderr[-3000:]
    return done.returncode, answer


def without_times(answer: dict[str, Any]) -> dict[str, Any]:
    """What a ladder tells, but for what no two runs have alike."""
    rungs = [{k: v for k, v in rung.items() if k not in ("p50", "p95")} for rung in answer["rungs"]]
    points = [{k: v for k, v in point.items() if k != "seconds"} for point in answer["points"]]
    return {**answer, "rungs": rungs, "points": points, "page": ""}


@pytest.fixture(scope="module")
def api() -> Iterator[Server]:
    """The API model behind baseline.endpoint."""
    with openai_server(api_model) as server:
        yield server


@pytest.fixture(scope="module")
def climbed(finished: Finished, api: Server, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The ladder, undisturbed."""
    settings = {**SETTINGS, "baseline": {**BASELINE, "endpoint": {"url": api.url, "model": "large"}}}
    project = Project.continued(finished[0], tmp_path_factory.mktemp("ladder"), "few_shot_baseline", **settings)
    return project, *climb(project)


def test_every_rung_answers_the_same_rows_and_reads_what_dagster_shows(climbed: Finished) -> None:
    project, code, answer = climbed
    names = [rung["name"] for rung in answer["rungs"]]
    assert {"linear", "commonest", "prompt", "prompt_restricted", "optimised", "retrieve"} <= set(names)
    assert answer["rows"] == len(read_predictions(project.artifact("prompt_search") / "predictions.parquet")) >= 10
    assert code == (0 if answer["decision"] == "fine_tune" else 2)
    assert [point["share"] for point in answer["points"]] in ([0.25], [0.25, 0.5])
    assert all(rung["p50"] > 0 for rung in answer["rungs"] if rung["kind"] != "api"), "timed on this machine"
    assert {"api", "api_restricted"} & set(names)
    assert answer["stands"] in names and answer["sentence"]
    assert "every rung on the same rows" in Path(answer["page"]).read_text("utf-8").lower()
    for step in CLIMBED:
        record = json.loads((project.artifact(step.name) / "artifact.json").read_text("utf-8"))
        assert set(record["opened"]) <= set(step.needs), "read, and not shown"


def test_the_search_keeps_to_its_calls_and_scores_a_winner_on_rows_it_never_saw(climbed: Finished) -> None:
    project, _, answer = climbed
    facts = project.facts("prompt_search")
    assert len(facts["searches"]) == 2
    assert 0 < facts["calls"] == sum(of["calls"] for of in facts["searches"]) <= 112
    for of in facts["searches"]:
        assert of["winner"].startswith("instruction_") != ("not likely better" in of["stopped"]), of
    answered = read_predictions(project.artifact("prompt_search") / "predictions.parquet")
    assert len({row["example_id"] for row in answered}) == len(answered) == answer["rows"]


def test_the_api_model_writes_instructions_once_and_they_are_searched(climbed: Finished, api: Server) -> None:
    project, _, _ = climbed
    assert sum(map(wants_instructions, api.requests)) == 1
    facts = project.facts("prompt_search")
    searched = facts["searches"][0]["rounds"][0]["scores"]
    own, _, *others = instructions(TaskSpec.model_validate(project.spec), WRITTEN)
    assert others[: len(WRITTEN)] == WRITTEN
    assert {f"instruction_{number}_zero_shot" for number in (1, 2, 3)} <= set(searched), own


def test_the_tuned_model_stands_on_the_same_ladder_and_the_rest_is_not_asked_or_trained_again(
    climbed: Finished, api: Server
) -> None:
    project, _, before = climbed
    asked, made = len(api.requests), {step.name: project.artifact(step.name) for step in CLIMBED}
    code, answer = climb(project, "--tuned")
    assert [rung["name"] for rung in answer["rungs"]][-3:] == ["tuned", "tuned_retrieve", "tuned_optimised"]
    values = {rung["name"]: rung["value"] for rung in answer["rungs"] if not rung["name"].startswith("tuned")}
    assert values == {rung["name"]: rung["value"] for rung in before["rungs"]}
    assert (code == 0) == (answer["decision"] == "fine_tune") == answer["stands"].startswith("tuned")
    record = json.loads((project.artifact("tuned_rungs") / "artifact.json").read_text("utf-8"))
    assert set(record["opened"]) <= set(PIPELINE.steps["tuned_rungs"].needs)
    assert {step.name: project.artifact(step.name) for step in CLIMBED} == made
    assert len(api.requests) == asked, "paid twice"


def test_killed_in_each_rung_the_ladder_ends_as_if_undisturbed(climbed: Finished, api: Server, tmp_path: Path) -> None:
    """Killed in the search and in the pilot. What was answered and trained before a kill is not asked or trained again."""
    undisturbed, code, answer = climbed
    settings = {**SETTINGS, "baseline": undisturbed.spec["baseline"]}
    project = Project.continued(undisturbed, tmp_path, "prompt_search", **settings)
    paid = len(api.requests)
    work = project.home / "artifacts" / "colours" / ".work"

    def start() -> subprocess.Popen[str]:
        command = project.command("ladder", "colours", "--json")
        files = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env=project.environment(), text=True, start_new_session=True, **files)

    def wait_until(running: subprocess.Popen[str], results: str, count: int) -> dict[Path, int]:
        """When each of at least so many results of a step was written."""
        assert wait_for(running, lambda: len(list(work.glob(results))) >= count), "it ended before it could be killed"
        return {path: path.stat().st_mtime_ns for path in work.glob(results)}

    rounds, trainings = "prompt_search/*/fold_*/*/result.json", "pilot/*/*_rows/training.json"
    running = start()
    answered = wait_until(running, rounds, 1)
    kill_run(running)
    running = start()
    assert answered.items() <= wait_until(running, rounds, len(answered) + 1).items()
    trained = wait_until(running, trainings, 1)
    kill_run(running)
    assert not list((project.home / "artifacts" / "colours" / "pilot").glob("*/artifact.json"))
    running = start()
    assert trained.items() <= wait_until(running, trainings, len(trained) + 1).items()
    output, _ = running.communicate()
    assert (running.returncode, without_times(json.loads(output))) == (code, without_times(answer))
    assert len(api.requests) - paid <= 1, "the instructions, once more for this project; no answer was bought twice"
