"""Test rows that got no answer stop the run; the next run asks them, and only them, and goes on."""

from pathlib import Path
from typing import Any

from finetune_pipeline.evaluation.predictions import of_model, read_predictions, read_test_rows
from finetune_pipeline.evaluation.sealed import openings
from finetune_pipeline_tests.graph.project import Finished, Project
from finetune_pipeline_tests.openai_server import completion, openai_server
from finetune_pipeline_tests.skilled_model import truth


def test_rows_an_endpoint_did_not_answer_are_asked_again_alone(finished: Finished, tmp_path: Path) -> None:
    project, asked, silent = Project.continued(finished[0], tmp_path, "test_predictions"), [], [True]

    def tuned() -> list[str]:
        made = project.home.glob("artifacts/colours/merged_model/*/artifact.json")
        return [f"tuned-{p.parent.name}" for p in made]

    def answer(body: dict[str, Any], seen: int) -> Any:
        text = body["messages"][-1]["content"]
        asked.append((body["model"], text))
        right = truth(text)
        if body["model"] != "base" and silent[0] and sum(text.encode()) % 4 == 0:
            return 500, {}, b"broken"
        return completion(right if body["model"] != "base" else "blue", "stop")

    with openai_server(answer) as server:
        server.models = lambda: ["base", *tuned()]
        there = {"url": server.url, "base": "base", "candidate": "tuned-{version}"}
        project.write_spec(evaluation={"engine": "endpoint", "endpoint": there})
        code, result = project.run("--stage", "evaluation")
        assert code == 2, result
        first = project.artifact("test_predictions")
        rows = of_model(read_predictions(first / "predictions.parquet"), "candidate")
        failed = {row["example_id"] for row in rows if row["status"] == "error"}
        assert 0 < len(failed) < len(rows)
        assert not (project.home / "artifacts" / "colours" / "evaluation_report").exists(), "scored with rows missing"
        silent[0] = False
        asked.clear()
        code, result = project.run("--stage", "evaluation")
    texts = read_test_rows(first).texts
    assert sorted(asked) == sorted((tuned()[0], texts[row]) for row in failed), "others were asked again"
    second = project.artifact("test_predictions")
    rows = of_model(read_predictions(second / "predictions.parquet"), "candidate")
    assert {row["status"] for row in rows} == {"ok"} and len(rows) == len(texts)
    looks = openings(project.home / "artifacts" / "colours" / "state", project.artifact("splits").name)
    assert second == first and len({look["candidate"] for look in looks}) == 1, "the same look at the test"
    assert project.artifact("evaluation_report").is_dir(), result
