"""Champions that were not trained, in the real graph: a simple model is shipped, served, watched, fitted again, rolled back and
forgotten; a prompt is shipped, served and compared."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.engine.files import read_json
from finetune_pipeline.evaluation.calibration import released_probability
from finetune_pipeline.evaluation.predictions import of_model, read_predictions, read_test_rows
from finetune_pipeline.tracking import registry
from finetune_pipeline_tests.graph.project import LORA, Project, easy_rows
from finetune_pipeline_tests.skilled_model import SYSTEM, make_skilled_model, raw_rows

SECRET = "zeppelin marmalade quixotic"
FORCED = {"learnable": "warn", "worth_training": "warn", "min_valid_share": 0.8}
"""Gates of a user who trains whatever the checks before training say; few test rows show a form for several candidates."""


@contextmanager
def serving(project: Project) -> Iterator[Any]:
    """Start ``finetune serve`` and yield a function that asks it."""
    command, env = project.command("serve", "colours", "--port", "0"), project.environment()
    server = subprocess.Popen(
        command, env={**env, "PYTHONUNBUFFERED": "1"}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert server.stdout is not None and server.stderr is not None
        address = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert address, server.stderr.read()

        def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{address[0]}{path}", json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)

        ask.address = f"{address[0]}/v1"  # type: ignore[attr-defined]
        yield ask
    finally:
        os.kill(server.pid, signal.SIGTERM)
        server.wait(60)


def chat(ask: Any, text: str, **more: Any) -> dict[str, Any]:
    return ask("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **more})


def answers(project: Project, model: str) -> dict[str, str]:
    rows = read_predictions(project.artifact("test_predictions") / "predictions.parquet")
    return {row["example_id"]: row["text"] for row in of_model(rows, model)}


def texts_of_test(project: Project) -> dict[str, str]:
    return read_test_rows(project.artifact("test_predictions")).texts


def files_with(folder: Path, *needles: bytes) -> list[str]:
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [f"{path}: {needle!r}" for path, data in files.items() for needle in needles if needle in data]


@pytest.fixture(scope="module")
def simple_world(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after a run in which one word decides: a linear model is right, and a random model is not. Twelve of its rows
    are corrections by Ann."""
    logs = {"judging_share": 0.0, "max_family_share": 1.0, "settle_seconds": 0}
    split, root = {"validation": 0.2, "test": 0.3}, tmp_path_factory.mktemp("simple")
    project = Project(root, training=LORA, gates=FORCED, logs=logs, split=split)
    project.write_rows(easy_rows(400))
    (project.folder / "logs").mkdir()
    row = {"timestamp": "2026-05-01T10:00:00Z", "output": "red", "user": "ann", "model_version": "1"}
    lines = [
        {**row, "id": f"served-{i:05d}", "input": f"{SECRET} water {i} {'xyzw'[i % 4]}", "feedback": {"label": "blue"}}
        for i in range(12)
    ]
    (project.folder / "logs" / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, output = project.run()
    assert (code, output.get("decision")) == (0, "ship_simple"), output
    return project


def test_the_simple_model_is_champion_and_a_rerun_changes_nothing(simple_world: Project) -> None:
    project, tracking = simple_world, simple_world.tracking
    assert registry.aliases(tracking, "colours") == {"candidate": 1, "champion": 1}
    tags = registry.version_tags(tracking, "colours", 1)
    assert (tags["winner_kind"], tags["winner_name"], tags["gates"]) == ("simple", "linear", "passed")
    assert project.run()[1]["worked"] is False, "a rerun finds what is there"
    assert registry.aliases(tracking, "colours") == {"candidate": 1, "champion": 1}
    released = project.artifact("model_version")
    fitted = project.artifact("few_shot_baseline") / "simple_models" / "linear"
    shipped, stored = ({p.name: p.read_bytes() for p in f.iterdir()} for f in (released / "shipped", fitted))
    assert shipped == stored, "it is the fitted model that was evaluated"
    assert "TF-IDF" in (released / "README.md").read_text()
    probability = released_probability(read_json(released / "model_version.json"))
    assert probability is not None and probability.calibration.rows > 50, "validation rows"
    assert probability.labels == project.spec["output"]["labels"]
    printed = project.finetune("report", "colours")
    assert printed.returncode == 0
    titles = [line for line in printed.stdout.splitlines() if line.startswith("gates of ")]
    assert titles[0] == "gates of TF-IDF and logistic regression", "those of what is shipped come first"
    assert titles[1].startswith("gates of the fine-tuned model: ")


def test_it_is_served_logged_exported_and_verified(simple_world: Project, tmp_path: Path) -> None:
    project = simple_world
    none = project.finetune("report", "colours", "--shadow")
    assert none.returncode == 1 and "no row of colours has a second answer yet" in none.stderr
    with serving(project) as ask:
        for row in easy_rows(30, seed=5):
            reply = chat(ask, row["text"], user="bob")
            assert reply["model"] == "colours:1" and reply["choices"][0]["message"]["content"] == row["label"]
            ask("/feedback", {"id": reply["id"], "label": row["label"]})
        verified = project.finetune("export", "colours", "--verify", ask.address, "--json")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        result = json.loads(verified.stdout)
        assert (result["model_version"], result["passed"]) == (1, True) and result["same"] == result["rows"]
    logged = (project.folder / "logs" / "served.jsonl").read_text().splitlines()
    answered = [row for row in map(json.loads, logged) if "output" in row]
    assert [row["model_version"] for row in answered] == ["colours:1"] * 30, "what is verified is not logged"
    share = {"champion": "colours:1", "candidate": "colours:7", "percent": 10, "chosen": False, "seconds": 0.1}
    with (project.folder / "logs" / "served.jsonl").open("w") as out:  # as if another had answered a share
        for line in map(json.loads, logged):
            out.write(json.dumps(line | ({"share": share} if "output" in line else {})) + "\n")
    with (project.folder / "logs" / "behind.jsonl").open("w") as out:  # what a second model has said to the first three
        for row in answered[:3]:
            shadow = {
                "model_version": "colours:7",
                "output": "red",
                "champion": "colours:1",
                "champion_output": row["output"],
            }
            shadow |= {"seconds": 0.2, "champion_seconds": 0.1}
            line = {key: row[key] for key in ("id", "timestamp", "messages", "user")} | {"shadow": shadow}
            out.write(json.dumps(line) + "\n")
    exported = project.finetune("export", "colours", "--to", str(tmp_path / "exported"), "--json")
    assert exported.returncode == 0, exported.stderr
    text = "stone water cloud"
    script = [sys.executable, str(tmp_path / "exported" / "predict.py")]
    done = subprocess.run(script, input=f"{text}\n", text=True, capture_output=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["blue"]
    adapter = project.finetune("export", "colours", "--to", str(tmp_path / "no"), "--adapter")
    assert adapter.returncode == 1 and "no trained model" in adapter.stderr


def test_a_run_with_new_rows_fits_it_again_and_judges_that_by_the_same_gates(simple_world: Project) -> None:
    project, tracking = simple_world, simple_world.tracking
    before = answers(project, "simple_linear")
    first_files = registry.version_tags(tracking, "colours", 1)["files_digest"]
    code, output = project.run()
    assert (code, output["decision"]) == (2, "refuse"), "it is no better than the champion"
    reported = json.loads(project.finetune("report", "colours", "--shadow", "--json").stdout)
    shadow, shared = reported["shadow"], reported["share"]
    assert (shared["champion"]["rows"], shared["candidate"]["rows"]) == (30, 0)
    assert [measure["champion"] for measure in shared["measures"]] == [0, 0, 0], "labels that confirm are no complaints"
    assert (shadow["rows"], shadow["unanswered"], shadow["decided"]) == (3, 0, 0), "users' labels decide nothing"
    assert shadow["reported"]["corrected"] == shadow["reported"]["champion_right"] == 3
    champion = answers(project, "champion")
    assert champion.keys() >= before.keys() and {i: champion[i] for i in before} == before
    facts = project.facts("test_predictions")
    assert facts["kinds"]["champion"] == "simple" and facts["champion"]["files"] == first_files
    report = json.loads((project.artifact("evaluation_report") / "report.json").read_text())
    gates = {gate["name"]: gate["status"] for f in report["finalists"] for gate in f["gates"] if f["name"] == "linear"}
    assert gates["beats_champion"] == "failed"
    drift = json.loads((project.artifact("drift_report") / "artifact.json").read_text())
    assert "its answers on the test set" in json.dumps(drift["facts"])
    assert registry.aliases(tracking, "colours") == {"candidate": 2, "champion": 1}
    assert registry.version_tags(tracking, "colours", 2)["winner_kind"] == "tuned"


def test_a_rollback_returns_from_a_tuned_model_to_it(simple_world: Project) -> None:
    project, tracking = simple_world, simple_world.tracking
    with registry.open_registry(tracking) as client:
        client.set_model_version_tag("colours", "2", "gates", "passed")
    registry.promote(tracking, "colours", 2)
    assert project.finetune("rollback", "colours", "--reason", "worse").returncode == 0
    assert registry.champion(tracking, "colours") == 1
    with serving(project) as ask:
        assert chat(ask, "stone fire cloud", store=False)["choices"][0]["message"]["content"] == "red"


def test_a_forgotten_person_takes_it_out_of_service_and_the_next_run_ships_another(simple_world: Project) -> None:
    project, tracking = simple_world, simple_world.tracking
    words = [SECRET.encode(), SECRET.split(maxsplit=1)[0].encode()]
    assert files_with(project.home / "artifacts", *words)
    process = project.finetune("forget", "colours", "--user", "ann", "--json")
    assert process.returncode == 0, process.stderr
    output = json.loads(process.stdout)
    assert (output["blocked"], output["files_removed"], output["champion"]) == ([1, 2], [1], None)
    assert "version 1, the champion, contained such rows" in process.stderr
    assert files_with(project.home, *words) == []
    refused = project.finetune("serve", "colours", "--port", "0")
    assert refused.returncode == 1 and "no champion yet" in refused.stderr
    code, result = project.run()
    assert (code, result["decision"]) == (0, "ship_simple"), result
    assert registry.champion(tracking, "colours") == 3 and files_with(project.home, *words) == []
    with serving(project) as ask:
        assert chat(ask, "stone fire cloud", store=False)["model"] == "colours:3"


@pytest.fixture(scope="module")
def prompt_world(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after a run with a base model that is right under the task's prompt, and word order, which no simple model
    learns: training has nothing to add."""
    root = tmp_path_factory.mktemp("prompt")
    base = make_skilled_model(root / "skilled", lambda rng, label: label, steps=400, knowledge=False)
    split, training = {"validation": 0.2, "test": 0.3}, {**LORA, "learning_rate": 1e-4}
    project = Project(root / "project", base=base, training=training, gates=FORCED, split=split)
    project.write_rows(raw_rows(0, 400))
    code, output = project.run()
    assert (code, output.get("decision")) == (0, "ship_prompt"), output
    return project


def test_a_prompt_is_shipped_served_exported_and_compared_with_the_next_candidate(
    prompt_world: Project, tmp_path: Path
) -> None:
    project, tracking = prompt_world, prompt_world.tracking
    tags = registry.version_tags(tracking, "colours", 1)
    assert (registry.champion(tracking, "colours"), tags["winner_kind"]) == (1, "prompt")
    assert tags["winner_name"] == project.facts("few_shot_baseline")["best"]
    probability = released_probability(read_json(project.artifact("model_version") / "model_version.json"))
    assert probability is not None and probability.calibration.rows > 0
    first, texts = answers(project, "base"), texts_of_test(project)
    with serving(project) as ask:
        for example_id in sorted(first)[:10]:
            reply = chat(ask, texts[example_id], store=False)
            assert reply["choices"][0]["message"]["content"] == first[example_id].strip()
    exported = project.finetune("export", "colours", "--to", str(tmp_path / "exported"), "--json")
    assert exported.returncode == 0, exported.stderr
    manifest = json.loads((tmp_path / "exported" / "export.json").read_text())
    assert manifest["messages_before_the_input"][0] == {"role": "system", "content": SYSTEM}
    project.write_rows(raw_rows(9, 40), "b.jsonl")
    code, output = project.run()
    assert code in (0, 2), output
    assert project.facts("test_predictions")["kinds"]["champion"] == "prompt"
    champion = answers(project, "champion")
    assert {i: champion[i] for i in first if i in champion} == {i: first[i] for i in first if i in champion}
    assert registry.champion(tracking, "colours") == 1, "a tie does not replace it"
