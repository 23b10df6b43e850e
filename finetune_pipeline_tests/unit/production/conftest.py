"""A task without rows and its artifact store."""

from pathlib import Path

import pytest

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.spec import Task
from finetune_pipeline_tests.unit.production.streams import task_of


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return task_of(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "home" / "artifacts")
