"""`finetune list`: what serves, how good it is, what came of the last run, and whether production drifts."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.cli.list_ import task_row
from finetune_pipeline.engine.store import ArtifactStore, Builder
from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline_tests.unit.cli.test_rollback import released, tracking  # noqa: F401 - a fixture
from finetune_pipeline_tests.unit.production.releases import released_facts


def register(store: ArtifactStore, number: int, gates_passed: bool) -> None:
    """Store the release of a version as the graph does."""

    def make(builder: Builder) -> None:
        record = {"scores": {"value": 0.5 + number / 10}}
        (builder.folder / "model_version.json").write_text(json.dumps(record), "utf-8")
        builder.facts.update(released_facts(number, gates_passed))

    store.build("tickets", "model_version", code_version="1", inputs={}, settings=number, make=make)


@pytest.mark.usefixtures("tracking")
def test_a_task_is_listed_with_what_serves_and_what_came_of_the_last_run(
    tracking: Tracking,  # noqa: F811
    tmp_path: Path,
    finetune: Any,
) -> None:
    folder, store = tmp_path / "data" / "tickets", ArtifactStore(tmp_path / "home" / "artifacts")
    assert task_row("tickets", folder, store, tracking).cells == ("new", "–", "–", "–", "–")
    released(tracking, tmp_path, 1, gates_passed=False)
    register(store, 1, gates_passed=False)
    refused = task_row("tickets", folder, store, tracking)
    assert (refused.state, refused.champion, refused.result) == ("none", None, "refused")
    released(tracking, tmp_path, 2)
    register(store, 2, gates_passed=True)
    champion = task_row("tickets", folder, store, tracking)
    assert (champion.state, champion.champion, champion.kind, champion.score) == ("champion", 2, "tuned", 0.7)
    assert champion.result == "promoted" and champion.score_words == "ROUGE-L 70.0"
    released(tracking, tmp_path, 3, gates_passed=False)
    register(store, 3, gates_passed=False)
    row = task_row("tickets", folder, store, tracking)
    assert (row.champion, row.score, row.result) == (2, 0.7, "refused"), (
        "the champion's own score, the last run's result"
    )
    (tmp_path / "data" / "dated").mkdir()
    (tmp_path / "data" / "dated" / "task.yaml").write_text("name: dated\nowner: 2026-02-30\n")
    text, rows = finetune("list").stdout, finetune("list", "--json").json["tasks"]
    assert "version 2, tuned" in text and "ROUGE-L 70.0" in text and "'2026-02-30' cannot be read" in text
    assert rows["tickets"]["champion"] == 2 and rows["dated"]["broken"] and rows["dated"]["problems"]
