"""A judging model in the real graph: believed once it agrees with people, refused with its bias named, never paid twice."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Iterator

import pytest

from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.pipeline import CHECKS
from finetune_pipeline.spec import load_task
from finetune_pipeline_tests.graph.project import Project
from finetune_pipeline_tests.judge_minds import judge_mind, right
from finetune_pipeline_tests.openai_server import Server, openai_server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with openai_server(judge_mind) as serving:
        yield serving


@pytest.fixture(scope="module")
def project(finished: tuple[Project, int, dict], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run, its answers rated by somebody who takes what is right."""
    made = Project.continued(finished[0], tmp_path_factory.mktemp("judged"), "model_version")
    sheet = made.root / "sheet.jsonl"
    done = made.finetune("review", "colours", "--table", str(sheet), "--items", "100", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in sheet.read_text().splitlines()]
    for row in rows:
        good = {side: right(row["reference"], row[f"answer_{side.lower()}"]) for side in "AB"}
        row |= {
            "choice": "both" if all(good.values()) else next((s for s in good if good[s]), "neither"),
            "rater": "Ada",
        }
    sheet.write_text("".join(json.dumps(r) + "\n" for r in rows))
    made.finetune("review", "colours", "--items", "100", "--take", str(sheet), "--json")
    return made


def judged(project: Project, server: Server, mind: str) -> tuple[dict, dict, str]:
    """(what is told of this judge, its gate, the report's page)."""
    judge = {"url": server.url, "model": mind, "min_rated": 10}
    project.write_spec(evaluation={"judge": judge, "similarity": "hashed"}, gates={"min_preferred": 0.5})
    code, told = project.run()
    assert code == 2 and "adapter" in told["steps"], told
    gates = {g["name"]: g for g in project.facts("evaluation_report")["gates"]}
    page = (project.artifact("evaluation_report") / "report.html").read_text("utf-8")
    return project.facts("judge_review"), gates["judge"], page


def test_a_fair_judge_counts_and_a_rerun_asks_nothing(project: Project, server: Server) -> None:
    predictions = project.artifact("test_predictions")
    facts, gate, page = judged(project, server, "fair")
    told = facts["judge"]
    assert told["believed"] and told["refused"] == []
    assert told["kappa"] == 1.0 and told["consistent"] == 1.0 and told["rated"] >= 30
    assert gate["passed"] and gate["measured"] == told["verdict"]["interval"][0] >= 0.5
    assert told["verdict"]["wins"] >= 10 and told["verdict"]["losses"] == 0
    assert project.artifact("test_predictions") == predictions, "nothing is predicted anew for a judge"
    assert "Judgement by a model" in page and "fair at 127.0.0.1 is believed" in page
    assert "Cohen's kappa 1.00" in html.unescape(page) and "Likeness to the reference answers" in page
    report = json.loads((project.artifact("evaluation_report") / "report.json").read_text())
    assert report["judge"]["kappa"] == 1.0 and report["similarity"]["n"] == facts["similarity"]["n"]
    asked = len(server.requests)
    assert asked == told["spent"]["requests"] > 0
    bodies = [json.dumps([r["model"], r["messages"]]) for r in server.requests]
    assert len(set(bodies)) == len(bodies), "no question was bought twice"
    shutil.rmtree(project.artifact("judge_review"))
    judged(project, server, "fair")
    assert len(server.requests) == asked
    assert project.facts("judge_review")["judge"]["verdict"] == told["verdict"]


def test_a_biased_judge_is_named_and_does_not_count(project: Project, server: Server) -> None:
    mind, bias = "long", "empty words added"
    facts, gate, page = judged(project, server, mind)
    told = facts["judge"]
    assert told["believed"] is False and told["verdict"] is None
    assert any(bias in reason for reason in told["refused"]), told["refused"]
    assert not gate["passed"] and bias in gate["message"]
    assert f"{mind} at 127.0.0.1 is not believed, and its opinion does not count" in page
    answer = next(c for _, c in CHECKS if c.name == "judge_believed").ask(
        Artifact("colours", "judge_review", "v", project.root, facts, {}), load_task(project.folder).spec
    )
    assert not answer.passed and bias in answer.message
