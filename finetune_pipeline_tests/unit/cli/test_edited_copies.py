"""The recall of edited copies is in what people read, not only in a file."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from finetune_pipeline.cli import run as run_command
from finetune_pipeline.data.split.canaries import EDITS
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.spec import load_task
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline_tests.unit.cli.test_commands import SPEC, json_lines
from finetune_pipeline_tests.unit.data.rows import random_text


def test_the_data_stage_ends_with_the_recall_of_edited_copies_and_show_repeats_it(
    tmp_path: Path, finetune: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "demo"
    (folder / "raw").mkdir(parents=True)
    (folder / "task.yaml").write_text(yaml.safe_dump(SPEC))
    assert "edited copies" not in finetune("show", "demo").stdout, "there is no split yet"
    (folder / "raw" / "a.jsonl").write_text(json_lines([(random_text(i), "yes" if i % 2 else "no") for i in range(60)]))

    def data_stage(*_: object) -> Any:
        """Makes the splits as the graph does; the other steps of the stage need a base model."""
        task, store = load_task(folder), ArtifactStore(tmp_path / "home" / "artifacts")
        PIPELINE.run_to("splits", task, collect_run_inputs(task, None, store), store)
        return SimpleNamespace(success=True, run_id="1")

    monkeypatch.setattr(run_command, "execute", data_stage)
    ended, shown = finetune("run", "demo", "--stage", "data"), finetune("show", "demo")
    assert ended.returncode == shown.returncode == 0, ended.stderr + shown.stderr
    for output in (ended.stdout, shown.stdout):
        assert all(f"{kind} " in output for kind in EDITS) and "one typo 100% (" in output
    assert set(finetune("show", "demo", "--json").json["edited_copies"]) == set(EDITS)
