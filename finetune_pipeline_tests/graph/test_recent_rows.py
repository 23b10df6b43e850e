"""Corrected production rows through the real graph: some train, some judge all models, and a person's can be forgotten."""

from __future__ import annotations

import json
from pathlib import Path

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.evaluation.predictions import of_model, read_predictions
from finetune_pipeline_tests.graph.project import Project, rows


def test_rows_that_judge_are_asked_of_every_model_and_train_none(tmp_path: Path) -> None:
    logs = {"judging_share": 0.5, "judging_after": 0, "max_family_share": 1.0}
    project = Project(tmp_path, robustness={"rows": 8}, logs=logs)
    (project.folder / "logs").mkdir()
    told = [
        {
            "id": f"served-{i:05d}",
            "timestamp": f"2026-05-01T10:{i:02d}:00Z",
            "input": row["text"],
            "output": "red",
            "user": f"user{i}",
            "model_version": "1",
            "feedback": {"label": row["label"]},
        }
        for i, row in enumerate(rows(180, seed=7)[120:])
    ]
    (project.folder / "logs" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    code, outcome = project.run()
    assert code in (0, 2), outcome

    judging = project.facts("production_logs")["judging"]
    assert 20 <= judging <= 40 and project.facts("production_logs")["corrections"] == 60 - judging
    trained = {e.user_text for e in read_examples(project.artifact("raw_examples") / "files" / "production.jsonl")}
    folder = project.artifact("test_predictions")
    facts = json.loads((folder / "production.json").read_text())
    assert 20 <= facts["rows"]["rows"] <= judging == facts["rows"]["looked_at"]
    asked = {row["input"] for row in told if row["id"] in facts["ids"]}
    assert len(asked) == facts["rows"]["rows"] and not asked & trained
    predicted = read_predictions(folder / "predictions.parquet")
    both = [of_model(predicted, f"{name}:production") for name in ("base", "candidate")]
    assert [len(some) for some in both] == [len(asked)] * 2
    assert len(of_model(predicted, "candidate:typos")) == 8
    report = project.artifact("evaluation_report")
    production = json.loads((report / "report.json").read_text())["production"]
    assert production["judged"] and production["n"] == len(asked) and set(production["comparisons"]) == {"base"}
    gate = {g["name"]: g for g in project.facts("evaluation_report")["gates"]}["recent_production"]
    assert gate["passed"] and gate["measured"] == production["comparisons"]["base"]["interval"][1]
    assert "Recent production rows" in (report / "report.html").read_text()

    user = next(row["user"] for row in told if row["id"] == facts["ids"][0])
    assert project.finetune("forget", "colours", "--user", user, "--json").returncode == 0
    assert not folder.exists() and not report.exists()
