"""A trainer that another installed package brings, one file as docs/training.md shows it, trains in the real graph."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from finetune_pipeline_tests.graph.project import Project

DOCS = Path(__file__).resolve().parents[2] / "docs" / "training.md"


def _install(site: Path) -> None:
    """The documented file and entry point, laid down as pip does."""
    source, pyproject = (
        re.search(rf"```{language}\n(# {name}.*?)```", DOCS.read_text(), re.DOTALL)
        for language, name in (("python", "queue_trainer.py"), ("toml", "pyproject.toml"))
    )
    assert source and pyproject
    info = site / "queue_trainer-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "queue_trainer.py").write_text(source[1])
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: queue-trainer\nVersion: 1.0\n")
    group = re.search(r'\[project\.entry-points\."(.*)"\]\n(\w+) = "(.*)"', pyproject[1])
    assert group
    (info / "entry_points.txt").write_text(f"[{group[1]}]\n{group[2]} = {group[3]}\n")


def test_the_documented_trainer_trains_and_its_options_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    project = Project(tmp_path / "project", cold=True)
    training = {**project.spec["training"], "trainer": "queue"}
    project.write_spec(training={**training, "trainer_options": {"partition": 7, "extra": 1}})
    refused = project.finetune("check", "colours")
    assert refused.returncode == 1
    assert "training.trainer_options.partition" in refused.stdout and "takes partition" in refused.stdout
    project.write_spec(training={**training, "trainer_options": {"partition": "gpu"}})
    for stage in ("data", "baseline", "training"):
        done = project.finetune("run", "colours", "--stage", stage)
        assert done.returncode == 0, done.stdout + done.stderr
    assert project.facts("adapter")["partition"] == "gpu" and project.facts("adapter")["steps"] > 0
