"""``finetune advise`` on a planted easy task: the real stages, and the answer no without any training."""

from __future__ import annotations

import json
from pathlib import Path

from finetune_pipeline_tests.graph.project import Project, easy_rows


def test_a_planted_easy_task_is_advised_against_and_nothing_is_trained(tmp_path: Path) -> None:
    project = Project(
        tmp_path, gates={"wanted_gain": 0.1}, baseline={"shots": [0], "retrieved": 2, "max_new_tokens": 6},
        split={"validation": 0.2},
    )  # fmt: skip
    project.write_rows(easy_rows(300))  # 60 validation rows that a linear model has all right
    done = project.finetune("advise", "colours", "--json")
    assert done.returncode == 2, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["decision"] == "simple" and result["fine_tune"] is False
    assert "TF-IDF and logistic regression" in result["reasons"][0]
    facts = project.facts("few_shot_baseline")
    assert list(facts["prompts"]) == ["zero_shot", "2_nearest"]
    assert facts["simple"]["linear"]["accuracy"] == 1.0 and facts["simple"]["linear"]["n"] >= 50
    assert result["power"]["sentence"] in " ".join(result["reasons"])
    made = {p.name for p in (project.home / "artifacts" / "colours").iterdir()}
    assert "advice" in made and not {"adapter", "merged_model", "test_predictions"} & made
