"""Two tiny models and a task, which the tests of the server share."""

from pathlib import Path

import pytest
import yaml

from finetune_pipeline.spec import Task, load_task
from finetune_pipeline_tests.tiny_model import LABELS, SYSTEM, make_tiny_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_tiny_model(folder / "one")
    make_tiny_model(folder / "two", seed=1)
    return folder


@pytest.fixture
def task(tmp_path: Path) -> Task:
    folder = tmp_path / "tickets"
    folder.mkdir()
    spec = {"name": "tickets", "description": "d", "system_prompt": SYSTEM}
    (folder / "task.yaml").write_text(yaml.safe_dump({**spec, "output": {"kind": "labels", "labels": LABELS}}))
    return load_task(folder)
