"""A training that its supervision audit stops: Dagster and `finetune report` point to the page that shows why."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from finetune_pipeline_tests.graph.project import Finished, Project


def test_the_page_is_to_be_had_where_the_training_was_stopped(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.continued(finished[0], tmp_path, "base_model")
    config = tmp_path / "base" / "tokenizer_config.json"
    # a token of ordinary texts declared special: decoding drops it from answers, and padding is taken for it
    config.write_text(json.dumps({**json.loads(config.read_text()), "pad_token": "utt"}))
    code, summary = project.run()
    assert code == 1
    (failed,) = [f for f in summary["failed"] if f["step"].endswith("adapter")]
    assert "[audit.rows_with_special_tokens]" in failed["message"] and "remove them from the data" in failed["message"]

    # the first phase's results lie in the work folder too, so the page is there twice
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
    shown = [failure.metadata["audit_page"].value for failure in failures if failure]
    assert shown == [str(page)]
