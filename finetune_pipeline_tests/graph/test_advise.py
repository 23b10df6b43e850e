"""Runs that end before a model exists: the advice against fine-tuning an easy task, and a training stopped by the supervision
audit, whose page Dagster and `finetune report` link to."""

import json
from pathlib import Path

import dagster as dg
import jsonschema
import pytest

from finetune_pipeline.cli.documents import document_schema
from finetune_pipeline_tests.graph.project import Finished, Project, easy_rows


def test_a_planted_easy_task_is_advised_against_and_nothing_is_trained(tmp_path: Path) -> None:
    project = Project(
        tmp_path, gates={"wanted_gain": 0.1}, baseline={"shots": [0], "retrieved": 2, "max_new_tokens": 6},
        split={"validation": 0.2},
    )  # fmt: skip
    project.write_rows(easy_rows(300))  # a linear model answers all 60 validation rows correctly
    process = project.finetune("advise", "colours", "--json")
    assert process.returncode == 2, process.stderr[-2000:]
    result = json.loads(process.stdout)
    assert result["decision"] == "simple" and result["fine_tune"] is False
    assert "TF-IDF and logistic regression" in result["reasons"][0]
    jsonschema.validate(result, document_schema("advise"))
    assert result["next"] == "finetune run colours"  # trains nothing, and ships it if the sealed test confirms that
    facts = project.facts("few_shot_baseline")
    assert list(facts["prompts"]) == ["zero_shot", "2_nearest", "zero_shot_without_labels"]
    assert facts["simple"]["linear"]["accuracy"] == 1.0 and facts["simple"]["linear"]["n"] >= 50
    assert result["power"]["sentence"] in " ".join(result["reasons"])
    steps = {path.name for path in (project.home / "artifacts" / "colours").iterdir()}
    assert "advice" in steps and not {"adapter", "merged_model", "test_predictions"} & steps


def test_the_page_is_to_be_had_where_the_training_was_stopped(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.continued(finished.project, tmp_path, "base_model")
    config = tmp_path / "base" / "tokenizer_config.json"
    # a pad token that is part of ordinary texts, so decoding drops it from answers
    config.write_text(json.dumps({**json.loads(config.read_text()), "pad_token": "utt"}))
    code, summary = project.run()
    assert code == 1
    (message,) = [failure["message"] for failure in summary["failed"] if failure["step"].endswith("adapter")]
    assert "[audit.rows_with_special_tokens]" in message and "remove them from the data" in message

    # the work folder holds a second copy in the first phase's results
    pages = list((project.home / "artifacts" / "colours" / ".work" / "adapter").rglob("audit.html"))
    page = next(p for p in pages if p.parent.name == "phase_1_work")
    assert "Training is stopped." in page.read_text() and 'class="loss' in page.read_text()

    report = project.finetune("report", "colours")
    assert report.returncode == 1 and str(page) in report.stderr, report.stderr

    monkeypatch.setenv("FINETUNE_HOME", str(project.home))
    monkeypatch.setenv("DAGSTER_HOME", str(project.home / "dagster"))
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        events = [record.dagster_event for record in instance.all_logs(run.run_id)]
    failures = [e.step_failure_data.user_failure_data for e in events if e and e.is_step_failure]
    assert [failure.metadata["audit_page"].value for failure in failures if failure] == [str(page)]
