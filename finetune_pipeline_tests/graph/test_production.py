"""Corrected production rows in the real graph: some train, some evaluate all models, and a person's rows can be forgotten."""

import json
import os
import time
from pathlib import Path

import pytest

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.data.perturbations import KINDS
from finetune_pipeline.evaluation.predictions import of_model, read_predictions
from finetune_pipeline.tracking import registry
from finetune_pipeline_tests.graph.project import LORA, Project, rows

SECRET = "zeppelin marmalade quixotic over the old lighthouse wall"


def log_line(n: int, user: str, text: str, label: str) -> str:
    row = {"id": f"served-{n:05d}", "timestamp": "2026-05-01T10:00:00Z", "input": text, "output": "red", "user": user}
    return json.dumps({**row, "model_version": "1", "feedback": {"label": label}}) + "\n"


def files_with(home: Path, *needles: bytes) -> list[str]:
    files = {path.relative_to(home): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    return [f"{name}: {needle!r}" for name, data in files.items() for needle in needles if needle in data]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after a run with corrections of sixty users and a dozen more from Ann."""
    logs = {"judging_share": 0.5, "judging_after": 0, "max_family_share": 1.0}
    project = Project(tmp_path_factory.mktemp("production"), robustness={"rows": 8}, logs=logs, training=LORA)
    lines = [log_line(i, f"user{i}", row["text"], row["label"]) for i, row in enumerate(rows(180, seed=7)[120:])]
    lines += [log_line(900 + i, "ann", f"{SECRET} number {i} {'xyzw'[i % 4]}", "blue") for i in range(12)]
    (project.folder / "logs").mkdir()
    log = project.folder / "logs" / "a.jsonl"
    log.write_text("".join(lines))
    past = time.time() - 60
    os.utime(log, (past, past))
    code, result = project.run()
    assert code in (0, 2), result
    return project


def test_rows_that_judge_are_asked_of_every_model_and_train_none(project: Project) -> None:
    logs = project.facts("production_logs")
    assert 20 <= logs["judging"] <= 46 and logs["judging"] + logs["corrections"] >= 60
    trained = {e.user_text for e in read_examples(project.artifact("raw_examples") / "files" / "production.jsonl")}
    folder = project.artifact("test_predictions")
    facts = json.loads((folder / "production.json").read_text())
    assert 20 <= facts["rows"]["rows"] <= logs["judging"] == facts["rows"]["looked_at"]
    lines = (project.folder / "logs" / "a.jsonl").read_text().splitlines()
    judging = {row["input"] for row in map(json.loads, lines) if row["id"] in facts["ids"]}
    assert len(judging) == facts["rows"]["rows"] and not judging & trained
    predictions = read_predictions(folder / "predictions.parquet")
    for model in ("base", "candidate"):
        assert len(of_model(predictions, f"{model}:production")) == len(judging)
    assert [len(of_model(predictions, f"candidate:{kind}")) for kind in KINDS] == [8] * len(KINDS)
    report = project.artifact("evaluation_report")
    production = json.loads((report / "report.json").read_text())["production"]
    assert production["judged"] and production["n"] == len(judging) and set(production["comparisons"]) == {"base"}
    gates = project.facts("evaluation_report")["gates"]
    (gate,) = [gate for gate in gates if gate["name"] == "recent_production"]
    assert gate["passed"] and gate["measured"] == production["comparisons"]["base"]["interval"][1]
    page = (report / "report.html").read_text()
    assert "Recent production rows" in page and "The same rows, perturbed" in page


def test_a_persons_rows_are_forgotten(project: Project) -> None:
    tracking = project.tracking

    def promote(version: int) -> None:
        """Promote the version even if its gates failed."""
        with registry.open_registry(tracking) as client:
            client.set_model_version_tag("colours", str(version), "gates", "passed")
        registry.promote(tracking, "colours", version)

    first = registry.aliases(tracking, "colours")["candidate"]
    adapter, logs = project.artifact("adapter").name, project.artifact("production_logs").name
    assert files_with(project.home / "artifacts", SECRET.encode()), "the rows were not stored before"
    for folder in ("dagster", "mlflow"):
        assert not files_with(project.home / folder, SECRET.encode(), SECRET[:30].encode(), b"served-00900")

    promote(first)
    process = project.finetune("forget", "colours", "--user", "ann", "--json")
    assert process.returncode == 0, process.stderr
    output = json.loads(process.stdout)
    assert (output["lines"], output["rows"], output["blocked"]) == (12, 12, [first])
    assert output["adapters"] == [adapter] and output["models"][0]["model_version"] == first
    assert not files_with(project.home, SECRET.encode(), SECRET[:30].encode(), b"served-00900", b"served-00911")
    assert f"production_logs/{logs}" in output["artifacts"]
    assert [(search["found"], search["left"]) for search in output["searched"][:2]] == [(12, 0), (12, 0)]
    assert output["searched"][2]["left"] == 0 and output["searched"][2]["found"] > 8
    log = (project.folder / "logs" / "a.jsonl").read_text()
    assert "ann" not in log and log.count("served-000") == 60
    assert (project.home / "artifacts" / "colours" / "adapter" / adapter).is_dir()
    shown = project.finetune("show", "colours")
    assert "champion: version 1; the champion was trained on forgotten rows" in shown.stdout, shown.stdout

    code, result = project.run()
    assert code in (0, 2), result
    assert "answers. The champion was trained on forgotten rows" in result["verdict"], "directly after the headline"
    gates = {gate["name"]: gate for gate in project.facts("evaluation_report")["gates"]}
    assert gates["beats_champion"]["status"] == "passed", "a random model ties with another"
    assert registry.champion(tracking, "colours") == first, "a random model beats no baseline"
    report = project.finetune("report", "colours")
    assert "this model is version 2; the champion was trained on forgotten rows" in report.stdout, report.stdout
    second = registry.aliases(tracking, "colours")["candidate"]
    assert second != first and project.artifact("adapter").name != adapter
    assert project.facts("model_version")["forgotten"] is False
    assert not files_with(project.home, SECRET.encode(), b"served-00900")
    promote(second)
    assert registry.champion(tracking, "colours") == second
    with pytest.raises(ValueError, match="forgotten since"):
        promote(first)
    output = json.loads(project.finetune("forget", "colours", "--user", "ann", "--json").stdout)
    assert (output["lines"], output["rows"], output["blocked"]) == (0, 0, [first])
