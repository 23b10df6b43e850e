"""A tiny base model and its tokenizer."""

from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline_tests.tiny_model import make_tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "base", dtype="bfloat16")


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny)
