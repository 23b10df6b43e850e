"""Models and rows that tests of several packages read and do not change."""

from pathlib import Path

import pytest

from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.training.jobs import make_inputs


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def inputs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and the module's ROWS training rows (default 40)."""
    return make_inputs(tmp_path_factory.mktemp("inputs"), getattr(request.module, "ROWS", 40))
