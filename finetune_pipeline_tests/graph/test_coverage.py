"""gates.metric: coverage in the real graph: from rows of which one in three cannot be told, to a model that is shipped because it
answers more by itself, and a second one that does not replace it."""

import json
import random
from typing import Any

import pytest

from finetune_pipeline.engine.files import read_json
from finetune_pipeline.evaluation.calibration import released_probability
from finetune_pipeline.tracking import registry
from finetune_pipeline_tests.graph.project import LORA, Project
from finetune_pipeline_tests.skilled_model import WORDS

COLOURS = {"fire": "red", "water": "blue"}


def colours(n: int, seed: int) -> list[dict[str, str]]:
    """Texts of which two in three name what the colour depends on. No two are near-duplicates."""
    rng, made = random.Random(seed), []
    for i in range(n):
        thing = rng.choice(list(COLOURS))
        words = rng.sample([word for word in WORDS if word not in COLOURS], 8)
        words.insert(rng.randrange(8), thing if i % 3 else "thing")
        made.append({"prompt": " ".join(words), "completion": COLOURS[thing]})
    return made


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after a run in which a simple model is good enough."""
    project = Project(
        tmp_path_factory.mktemp("coverage"),
        training=LORA,
        split={"validation": 0.2, "test": 0.3},
        baseline={"shots": [0], "max_new_tokens": 4, "batch_size": 8, "ceiling": 0.7},
        gates={"metric": "coverage", "min_valid_share": 0.8},
        automation={"max_error": 0.1},
    )
    project.write_rows(colours(700, 1))
    code, output = project.run()
    assert (code, output.get("decision")) == (0, "ship_simple"), output
    return project


def report_of(project: Project) -> dict[str, Any]:
    return json.loads((project.artifact("evaluation_report") / "report.json").read_text())


def test_the_plan_and_the_verdict_count_rows_answered_without_a_person(project: Project) -> None:
    assert "points of rows answered by itself" in project.facts("advice")["power"]["sentence"]
    report = report_of(project)
    (linear,) = [finalist for finalist in report["finalists"] if finalist["name"] == report["winner"]["name"]]
    (gain,) = linear["commonest"]["gains"]
    assert (gain["metric"], gain["rival_alone"], gain["shown"]) == ("coverage", 0.0, True)
    assert gain["alone"] == pytest.approx(0.75, abs=0.12), "of the others most are passed on"
    measured = report["probabilities"]["simple_" + linear["name"]]["automation"]
    assert gain["alone"] == pytest.approx(measured["coverage"]) and measured["possible"] >= 1
    assert report["metric"] == "accuracy", "scores are what they were"
    gates = {gate["name"]: gate for gate in linear["gates"]}
    assert gates["beats_commonest"]["status"] == gates["automation"]["status"] == "passed"
    assert "which answers 0.0% by itself: answers" in gates["beats_commonest"]["message"]
    (opening,) = report["seal"]["openings"]
    assert opening["metric"] == "coverage", "judging by another metric counts as another look"


def test_a_second_model_has_to_answer_more_than_the_champion_in_service(project: Project) -> None:
    released = released_probability(read_json(project.artifact("model_version") / "model_version.json"))
    assert released is not None and released.promise is not None
    project.write_rows(colours(840, 1))
    code, output = project.run()
    report = report_of(project)
    champion = report["finalists"][0]["champion"]["gains"]
    assert [gain["metric"] for gain in champion] == ["coverage"] and champion[0]["rival_alone"] > 0.5
    assert code == 2 and output["decision"] == "refuse", "about as many rows are no reason to replace it"
    assert registry.aliases(project.tracking, "colours")["champion"] == 1
    gate = next(gate for gate in report["finalists"][0]["gates"] if gate["name"] == "beats_champion")
    assert gate["status"] == "failed" and "the champion in service, which answers" in gate["message"]
