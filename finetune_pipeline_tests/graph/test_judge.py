"""Evaluation besides the task's metrics, in the real graph: general ability, human review, and a judge model. Judges that do
not count: unit/evaluation/test_preferences.py."""

import html
import json
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_pipeline.evaluation.predictions import of_model, read_predictions
from finetune_pipeline_tests.graph.project import Finished, Project
from finetune_pipeline_tests.judge_minds import judge_mind, right
from finetune_pipeline_tests.openai_server import Server, openai_server

ITEMS = [{"query": f"the colour number {i} is", "choices": ["red", "blue", "green"], "gold": i % 3} for i in range(12)]
GATES = {"min_rated": 5, "min_accepted": 0.01, "max_ability_loss": 1.0}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with openai_server(judge_mind) as server:
        yield server


@pytest.fixture(scope="module")
def project(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after a run with ability items; nobody has rated answers yet."""
    ability = {"suite": False, "files": ["items/*.jsonl"]}
    folder = tmp_path_factory.mktemp("judged")
    project = Project.continued(finished.project, folder, "base_ability", ability=ability, gates=GATES)
    (project.folder / "items").mkdir()
    items = [*ITEMS, {"text": "a plain sentence"}, {"text": "and another one"}]
    (project.folder / "items" / "some.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    picks = [{"query": f"ticket {i}: my invoice is wrong, so", "choices": ["a", "b"], "gold": i % 2} for i in range(6)]
    (project.folder / "items" / "pick.jsonl").write_text("".join(json.dumps(item) + "\n" for item in picks))
    project.run()
    return project


@pytest.fixture(scope="module")
def rated(project: Project) -> tuple[Project, int]:
    """The project after a person chose the right answers, and the number of rated rows."""
    sheet = project.root / "sheet.jsonl"
    process = project.finetune("review", "colours", "--table", str(sheet), "--items", "100", "--json")
    assert process.returncode == 0, process.stderr
    rows = [json.loads(line) for line in sheet.read_text().splitlines()]
    assert not any("candidate" in json.dumps(row) for row in rows)
    for row in rows:
        right_sides = [side for side in "AB" if right(row["reference"], row[f"answer_{side.lower()}"])]
        row |= {"choice": {0: "neither", 1: "".join(right_sides), 2: "both"}[len(right_sides)], "rater": "Ada"}
    rows[0]["choice"] = "maybe"
    sheet.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = json.loads(project.finetune("review", "colours", "--items", "100", "--take", str(sheet), "--json").stdout)
    assert output["taken"] == len(rows) - 1 and "`choice` is 'maybe'" in output["wrong"][0]
    return project, output["taken"]


def gates(project: Project) -> dict[str, dict[str, Any]]:
    return {gate["name"]: gate for gate in project.facts("evaluation_report")["gates"]}


def page(project: Project) -> str:
    return html.unescape((project.artifact("evaluation_report") / "report.html").read_text("utf-8"))


def test_general_ability_is_measured_and_people_are_asked_for(project: Project) -> None:
    result = project.facts("general_ability")
    assert (result["items"], result["n"], result["unscored"], result["text"]["n"]) == (20, 18, 0, 2)
    assert result["categories"]["pick"]["n"] == result["benchmarks"]["pick"]["n"] == 6
    assert gates(project)["general_ability"]["measured"] == pytest.approx(result["interval"][1])
    gate = gates(project)["human_review"]
    assert not gate["passed"] and "0 of 5 answers" in gate["message"]
    assert "pick" in page(project)


def test_people_and_a_fair_judge_count_and_only_what_follows_is_made_anew(
    rated: tuple[Project, int], server: Server
) -> None:
    project, rated_rows = rated
    before = {step: project.artifact(step) for step in ("test_predictions", "merged_model", "general_ability")}
    judge = {"url": server.url, "model": "fair", "min_rated": 10}
    project.write_spec(evaluation={"judge": judge, "similarity": "hashed"}, gates={**GATES, "min_preferred": 0.5})
    code, result = project.run()
    assert code in (0, 2), result
    facts, gate = project.facts("judge_review"), gates(project)["judge"]
    assert {step: project.artifact(step) for step in before} == before
    people, shown = project.facts("human_review"), page(project)
    assert people["raters"] == {"Ada": rated_rows} and people["rated"] == rated_rows
    answers = of_model(read_predictions(before["test_predictions"] / "predictions.parquet"), "candidate")
    n_right = sum(right(row["gold"], row["text"]) for row in answers)
    random, selected = people["random"], people["selected"]
    assert (
        0 < n_right - 1 <= random["candidate"]["acceptable"] + selected["only_candidate"] + selected["both"] <= n_right
    )
    assert f"people accept {random['candidate']['share']:.1%} of the fine-tuned model" in shown
    assert gates(project)["human_review"]["passed"] and "Judgement by people" in shown

    judge = facts["judge"]
    assert judge["believed"] and judge["refused"] == []
    assert judge["kappa"] == 1.0 and judge["consistent"] == 1.0 and judge["rated"] >= 30
    assert gate["passed"] and gate["measured"] == judge["verdict"]["interval"][0] >= 0.5
    assert judge["verdict"]["wins"] >= 10 and judge["verdict"]["losses"] == 0
    assert "fair at 127.0.0.1 is trusted" in shown and "Cohen's kappa 1.00" in shown
    report = json.loads((project.artifact("evaluation_report") / "report.json").read_text())
    assert report["judge"]["kappa"] == 1.0 and report["similarity"]["n"] == facts["similarity"]["n"]
    assert len(server.requests) == judge["spent"]["requests"] > 0
    questions = [json.dumps([request["model"], request["messages"]]) for request in server.requests]
    assert len(set(questions)) == len(questions), "a question was bought twice"
