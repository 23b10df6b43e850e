"""Unanswered test rows stop the run; the next run predicts only those rows and continues."""

from pathlib import Path
from typing import Any

from finetune_pipeline.evaluation.predictions import of_model, read_predictions, read_test_rows
from finetune_pipeline.evaluation.sealed import openings
from finetune_pipeline_tests.graph.project import Finished, Project
from finetune_pipeline_tests.openai_server import completion, openai_server
from finetune_pipeline_tests.skilled_model import truth


def test_rows_an_endpoint_did_not_answer_are_asked_again_alone(finished: Finished, tmp_path: Path) -> None:
    project = Project.continued(finished.project, tmp_path, "test_predictions")
    requests: list[tuple[str, str]] = []
    is_broken = True

    def tuned_models() -> list[str]:
        manifests = project.home.glob("artifacts/colours/merged_model/*/artifact.json")
        return [f"tuned-{path.parent.name}" for path in manifests]

    def answer(body: dict[str, Any], repeats: int) -> Any:
        text = body["messages"][-1]["content"]
        requests.append((body["model"], text))
        if body["model"] == "base":
            return completion("blue")
        if is_broken and sum(text.encode()) % 4 == 0:
            return 500, {}, b"broken"
        return completion(truth(text))

    with openai_server(answer) as server:
        server.models = lambda: ["base", *tuned_models()]
        endpoint = {"url": server.url, "base": "base", "candidate": "tuned-{version}"}
        project.write_spec(evaluation={"engine": "endpoint", "endpoint": endpoint})
        code, result = project.run("--stage", "evaluation")
        assert code == 2, result
        first = project.artifact("test_predictions")
        rows = of_model(read_predictions(first / "predictions.parquet"), "candidate")
        failed = {row["example_id"] for row in rows if row["status"] == "error"}
        assert 0 < len(failed) < len(rows)
        assert not (project.home / "artifacts" / "colours" / "evaluation_report").exists(), "scored with rows missing"
        is_broken = False
        requests.clear()
        code, result = project.run("--stage", "evaluation")
    texts = read_test_rows(first).texts
    expected = sorted((tuned_models()[0], texts[example_id]) for example_id in failed)
    assert sorted(requests) == expected, "answered rows were predicted again"
    second = project.artifact("test_predictions")
    rows = of_model(read_predictions(second / "predictions.parquet"), "candidate")
    assert {row["status"] for row in rows} == {"ok"} and len(rows) == len(texts)
    seal = openings(project.home / "artifacts" / "colours" / "state", project.artifact("splits").name)
    assert second == first and len({opening["candidate"] for opening in seal}) == 1, "the test set was opened again"
    assert project.artifact("evaluation_report").is_dir(), result
