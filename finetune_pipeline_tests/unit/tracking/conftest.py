"""A separate MLflow store for each test."""

from pathlib import Path

import pytest

from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline_tests.shared import copy_database


@pytest.fixture
def tracking(tmp_path: Path) -> Tracking:
    return Tracking(tracking_uri=copy_database(tmp_path / "mlflow"))
