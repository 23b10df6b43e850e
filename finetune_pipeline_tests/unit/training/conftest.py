"""A tokenizer, and a reset of torch's global state."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_pipeline.models.chat import load_tokenizer


@pytest.fixture(autouse=True)
def _determinism_ends_with_the_test() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return load_tokenizer(tiny)
