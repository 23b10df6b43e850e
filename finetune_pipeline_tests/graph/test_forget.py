"""`finetune forget` through the real graph: the rows are gone, the model is named and blocked, the next one may serve."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline_tests.graph.project import Project, rows

SECRET = "zeppelin marmalade quixotic over the old lighthouse wall"


def logged(n: int, user: str, text: str, label: str) -> str:
    row = {"id": f"served-{n:05d}", "timestamp": "2026-05-01T10:00:00Z", "input": text, "output": "red", "user": user}
    return json.dumps({**row, "model_version": "1", "feedback": {"label": label}}) + "\n"


def holding(home: Path, *needles: bytes) -> list[str]:
    return [
        f"{p.relative_to(home)}: {needle!r}"
        for p in home.rglob("*")
        if p.is_file()
        for needle in needles
        if needle in p.read_bytes()
    ]


def test_a_persons_rows_are_forgotten(tmp_path: Path) -> None:
    project = Project(tmp_path)
    others = rows(160, seed=7)[120:]
    lines = [logged(i, f"user{i}", row["text"], row["label"]) for i, row in enumerate(others)]
    lines += [
        logged(900 + i, "ann", f"{SECRET} number {i} {w}", "blue") for i, w in enumerate(["x", "y", "z", "w"] * 3)
    ]
    log = project.folder / "logs" / "a.jsonl"
    log.parent.mkdir()
    log.write_text("".join(lines))
    code, result = project.run()
    assert code in (0, 2), result
    versions = {step: entry["version"] for step, entry in result["steps"].items()}
    tracking = Tracking(tracking_uri=f"sqlite:///{project.home}/mlflow/mlflow.db")
    first = registry.aliases(tracking, "colours")["candidate"]
    adapter = project.artifact("adapter").name
    assert holding(project.home / "artifacts", SECRET.encode()), "or the test shows nothing"
    for elsewhere in ("dagster", "mlflow"):
        assert not holding(project.home / elsewhere, SECRET.encode(), SECRET[:30].encode(), b"served-00900")
    past = time.time() - 60
    os.utime(log, (past, past))

    done = project.finetune("forget", "colours", "--user", "ann", "--json")
    assert done.returncode == 0, done.stderr
    forgot = json.loads(done.stdout)
    assert (forgot["lines"], forgot["rows"], forgot["blocked"]) == (12, 12, [first])
    assert forgot["adapters"] == [adapter] and forgot["models"][0]["model_version"] == first
    assert not holding(project.home, SECRET.encode(), SECRET[:30].encode(), b"served-00900", b"served-00911")
    assert f"production_logs/{versions['production_logs']}" in forgot["artifacts"]
    assert [(s["found"], s["left"]) for s in forgot["searched"][:2]] == [(12, 0), (12, 0)]
    assert forgot["searched"][2]["left"] == 0 and forgot["searched"][2]["found"] > 8
    assert "ann" not in log.read_text() and log.read_text().count("served-000") == 40
    assert (project.home / "artifacts" / "colours" / "adapter" / adapter).is_dir()
    with pytest.raises(ValueError, match="gates are|forgotten since"):
        registry.promote(tracking, "colours", first)
    with registry.open_registry(tracking) as client:
        client.set_model_version_tag("colours", str(first), "gates", "passed")
    with pytest.raises(ValueError, match="forgotten since"):
        registry.promote(tracking, "colours", first)

    code, result = project.run()
    assert code in (0, 2), result
    second = registry.aliases(tracking, "colours")["candidate"]
    assert second != first and project.artifact("adapter").name != adapter
    assert project.facts("model_version")["forgotten"] is False
    assert not holding(project.home, SECRET.encode(), b"served-00900")
    with registry.open_registry(tracking) as client:
        client.set_model_version_tag("colours", str(second), "gates", "passed")
    registry.promote(tracking, "colours", second)
    assert registry.champion(tracking, "colours") == second
    again = json.loads(project.finetune("forget", "colours", "--user", "ann", "--json").stdout)
    assert (again["lines"], again["rows"], again["blocked"]) == (0, 0, [first])
