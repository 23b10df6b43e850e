"""Runs in which something simpler is surely good enough before training: nothing is trained, and the sealed test decides whether
that is shipped, in the real graph."""

import json
from pathlib import Path

import pytest

from finetune_pipeline.tracking import registry
from finetune_pipeline_tests.graph.project import LORA, Project, easy_rows, rows
from finetune_pipeline_tests.graph.test_shipped_kinds import chat, serving


def openings(project: Project) -> list[str]:
    ledger = project.home / "artifacts" / "colours" / "state" / "test_openings.jsonl"
    return [json.loads(line)["reason"] for line in ledger.read_text().splitlines()]


@pytest.fixture(scope="module")
def easy_world(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after a run in which one word decides, with the gates of the defaults but for the form of few rows."""
    split, root = {"validation": 0.2, "test": 0.3}, tmp_path_factory.mktemp("easy")
    project = Project(root, training=LORA, gates={"min_valid_share": 0.8}, split=split)
    project.write_rows(easy_rows(400))
    code, output = project.run()
    assert (code, output.get("decision")) == (0, "ship_simple"), output
    assert output["verdict"].startswith("Ship TF-IDF and logistic regression"), output["verdict"]
    assert "training was not worth it. Wrong in" in output["verdict"]
    assert "Before training, on validation: Fine-tuning is not needed" in output["verdict"]
    return project


def test_a_simple_model_is_shipped_after_one_look_and_nothing_was_trained(easy_world: Project) -> None:
    project, tracking = easy_world, easy_world.tracking
    for step in ("adapter", "merged_model"):
        assert "something simpler is surely good enough" in project.facts(step)["not_made"]
        assert [path.name for path in project.artifact(step).iterdir()] == ["artifact.json"]
    assert openings(project) == ["evaluation without training"]
    predictions = project.facts("test_predictions")
    assert predictions["kinds"] == {} and set(predictions["sets"]) == {"base"}
    assert registry.aliases(tracking, "colours") == {"candidate": 1, "champion": 1}
    tags = registry.version_tags(tracking, "colours", 1)
    assert (tags["winner_kind"], tags["winner_name"], tags["method"]) == ("simple", "linear", "none")
    assert (tags["gates"], tags["gate.beats_commonest"]) == ("passed", "passed")
    report = json.loads((project.artifact("evaluation_report") / "report.json").read_text())
    assert {gate["status"] for gate in report["gates"]} == {"not_asked"}
    assert report["scores"]["candidate"] == report["scores"]["simple_linear"], "what is judged is what is shipped"
    assert report["training"] is None and report["verdict"]["passed"] is True
    for page in ("report.html", "report.md"):
        text = (project.artifact("evaluation_report") / page).read_text()
        assert "the fine-tuned model" not in text.lower(), page


def test_a_rerun_changes_nothing_and_it_serves(easy_world: Project, tmp_path: Path) -> None:
    project = easy_world
    assert project.run()[1]["worked"] is False
    project.write_spec(training={**LORA, "learning_rate": 0.02})
    code, output = project.run()
    assert (code, output["decision"]) == (0, "ship_simple"), "settings of a training that is not done change nothing"
    assert openings(project) == ["evaluation without training"]
    with serving(project) as ask:
        reply = chat(ask, "stone water cloud", store=False)
        assert (reply["model"], reply["choices"][0]["message"]["content"]) == ("colours:1", "blue")
    exported = project.finetune("export", "colours", "--to", str(tmp_path / "exported"), "--json")
    assert exported.returncode == 0, exported.stderr
    review = project.finetune("review", "colours", "--page", str(tmp_path / "page.html"))
    assert review.returncode == 1 and "nothing was trained" in review.stderr


def test_with_harder_data_a_model_is_trained_again_and_compared_with_the_simple_champion(easy_world: Project) -> None:
    project = easy_world
    project.write_rows(rows(400, seed=3), "b.jsonl")
    code, output = project.run()
    assert code in (0, 2), output
    assert (project.artifact("adapter") / "adapter").is_dir() and "not_made" not in project.facts("adapter")
    predictions = project.facts("test_predictions")
    assert predictions["kinds"] == {"candidate": "lora", "champion": "simple"}
    assert predictions["champion"]["model_version"] == 1 and predictions["untrained"] == ""
    report = json.loads((project.artifact("evaluation_report") / "report.json").read_text())
    assert {gate["name"]: gate["status"] for gate in report["gates"]}["beats_champion"] in ("passed", "failed")
