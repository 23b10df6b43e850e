"""General ability and judgement by people, through the real graph: asked, told, and gates that mean it."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from finetune_pipeline.data.perturbations import KINDS
from finetune_pipeline.evaluation.predictions import read_predictions
from finetune_pipeline_tests.graph.project import Project
from finetune_pipeline_tests.unit.evaluation.ability.harness_files import CHOICES, write_task

ITEMS = [{"query": f"the colour number {i} is", "choices": ["red", "blue", "green"], "gold": i % 3} for i in range(12)]


@pytest.fixture(scope="module")
def project(finished: tuple[Project, int, dict], tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project.continued(
        finished[0],
        tmp_path_factory.mktemp("beyond"),
        "base_ability",
        ability={"suite": False, "files": ["items/*.jsonl"], "harness": {"tasks": ["bench"], "limit": 6}},
        robustness={"rows": 8},
        gates={"min_rated": 5, "min_accepted": 0.01, "max_ability_loss": 1.0},
    )
    (made.folder / "items").mkdir()
    lines = [*ITEMS, {"text": "a plain sentence"}, {"text": "and another one"}]
    (made.folder / "items" / "some.jsonl").write_text("".join(json.dumps(i) + "\n" for i in lines))
    write_task(made.folder / "bench", CHOICES)
    return made


def gates(project: Project) -> dict[str, dict]:
    return {g["name"]: g for g in project.facts("evaluation_report")["gates"]}


def test_people_decide_and_only_what_follows_is_made_anew(project: Project, tmp_path: Path) -> None:
    project.run()
    told = project.facts("general_ability")
    assert (told["items"], told["n"], told["unscored"]) == (20, 18, 0)
    assert told["harness"]["tasks"]["pick"] | {"results": {}} == {"rows": 6, "metric": "acc", "shots": 0, "results": {}}
    assert told["harness"]["lm_eval"] == importlib.metadata.version("lm_eval")
    assert told["categories"]["harness: pick"]["n"] == told["benchmarks"]["harness: pick"]["n"] == 6
    assert told["text"]["n"] == 2
    assert -1 <= told["drop"] <= 1
    assert told["interval"][0] <= told["drop"] <= told["interval"][1]
    assert gates(project)["general_ability"]["measured"] == pytest.approx(told["interval"][1])
    asked = gates(project)["human_review"]
    assert not asked["passed"]
    assert "0 of 5 answers" in asked["message"]

    sheet = tmp_path / "sheet.jsonl"
    done = project.finetune("review", "colours", "--table", str(sheet), "--items", "12", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in sheet.read_text().splitlines()]
    assert len(rows) == 12
    assert not any("candidate" in json.dumps(row) for row in rows)
    for row in rows:
        row |= {"choice": "both", "rater": "Ada"}
    rows[0]["choice"] = "maybe"
    sheet.write_text("".join(json.dumps(r) + "\n" for r in rows))
    taken = json.loads(project.finetune("review", "colours", "--items", "12", "--take", str(sheet), "--json").stdout)
    assert taken["taken"] == 11
    assert "`choice` is 'maybe'" in taken["wrong"][0]

    before = {step: project.artifact(step) for step in ("test_predictions", "merged_model", "general_ability")}
    project.run()
    assert {step: project.artifact(step) for step in before} == before
    people = project.facts("human_review")
    assert people["rated"] == 11
    assert people["raters"] == {"Ada": 11}
    assert people["random"]["candidate"]["share"] == 1.0
    assert gates(project)["human_review"]["passed"]
    page = (project.artifact("evaluation_report") / "report.html").read_text()
    assert "Judgement by people" in page
    assert "General ability" in page
    assert "harness: pick" in page and "pick (acc, 6 rows, 0 shots)" in page
    assert "people accept 100% of the fine-tuned model" in page


def test_perturbed_rows_were_asked_in_the_one_opening_and_stand_in_the_report(project: Project) -> None:
    (opening,) = (project.home / "artifacts/colours/state/test_openings.jsonl").read_text().splitlines()
    assert json.loads(opening)["candidate"] == project.artifact("merged_model").name
    rows = read_predictions(project.artifact("test_predictions") / "predictions.parquet")
    gold = {r["example_id"]: r["gold"] for r in rows if r["model"] == "candidate"}
    told = json.loads((project.artifact("evaluation_report") / "report.json").read_text())["robustness"]
    for kind in KINDS:
        mine = [r for r in rows if r["model"] == f"candidate:{kind}"]
        assert len(mine) == 8 == told["kinds"][kind]["n"]
        assert all(r["gold"] == gold[r["example_id"]] for r in mine)
    assert gates(project)["robust"]["threshold"] == 0.1
    for page in ("report.html", "report.md"):
        assert "The same rows, perturbed" in (project.artifact("evaluation_report") / page).read_text()


def test_benchmark_files_that_cannot_be_read_stop_the_run_at_once(project: Project) -> None:
    bad = project.folder / "items" / "bad.jsonl"
    bad.write_text('{"query": "q", "choices": ["a", "b"], "gold": 7}\n')
    try:
        done = project.finetune("run", "colours", "--json")
    finally:
        bad.unlink()
    assert done.returncode == 1
    assert "bad.jsonl, line 1" in done.stderr
    assert "gold is 7" in done.stderr
