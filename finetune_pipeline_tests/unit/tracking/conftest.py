"""A separate MLflow store for each test."""

from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline_tests.shared import copy_database


@pytest.fixture
def tracking(tmp_path: Path) -> Tracking:
    return Tracking(tracking_uri=copy_database(tmp_path / "mlflow"))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads a registered model as people do, with MLflow."""

    def read(tracking: Tracking, uri: str) -> Any:
        import mlflow

        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.uri())
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", tracking.uri())
        return mlflow.pyfunc.load_model(uri)

    return read
