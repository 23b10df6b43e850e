"""A training that its supervision audit stops: Dagster and `finetune report` point to the page that shows why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from finetune_pipeline_tests.graph.project import Project
from finetune_pipeline_tests.tiny_model import make_tiny_model

FAILURES = """
import json, os
from finetune_pipeline.settings import read_settings
os.environ.setdefault("DAGSTER_HOME", str(read_settings().project))
import dagster as dg
pages = {}
with dg.DagsterInstance.from_config(str(read_settings().project)) as instance:
    for run in instance.get_runs():
        for record in instance.all_logs(run.run_id):
            event = record.dagster_event
            failure = event.step_failure_data.user_failure_data if event and event.is_step_failure else None
            if failure and "audit_page" in failure.metadata:
                pages[event.step_key.rpartition("__")[2]] = failure.metadata["audit_page"].value
print(json.dumps(pages))
"""


def test_the_page_is_to_be_had_where_the_training_was_stopped(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    config = base / "tokenizer_config.json"
    # a token of ordinary texts declared special: decoding drops it from answers, and padding is taken for it
    config.write_text(json.dumps({**json.loads(config.read_text()), "pad_token": "utt"}))
    project = Project(tmp_path, base=base)
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

    done = subprocess.run(
        [sys.executable, "-c", FAILURES], env=project.environment(), text=True, capture_output=True, check=True
    )
    assert json.loads(done.stdout) == {"adapter": str(page)}
