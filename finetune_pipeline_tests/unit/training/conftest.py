"""Models and rows for training tests, and a reset of torch's global state."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.training.jobs import make_inputs


@pytest.fixture(autouse=True)
def _determinism_ends_with_the_test() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def inputs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and the module's ROWS training rows (default 40)."""
    return make_inputs(tmp_path_factory.mktemp("inputs"), getattr(request.module, "ROWS", 40))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return load_tokenizer(tiny)
