"""A task without rows and the store of its artifacts."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.log_kills import make_task
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.spec import Task, load_task


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return load_task(make_task(tmp_path))


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "home" / "artifacts")
