"""A tiny base model and examples for it."""

from pathlib import Path

import pytest

from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline_tests.tiny_model import make_tiny_model, write_tiny_examples


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return read_examples(write_tiny_examples(tmp_path_factory.mktemp("rows") / "rows.jsonl", range(20)))
