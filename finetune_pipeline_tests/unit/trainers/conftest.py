"""Fixtures for tests of hosted trainers: rows, fake services and training orders."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.trainers import TrainingOrder
from finetune_pipeline_tests.openai_jobs_server import OpenAiJobsServer
from finetune_pipeline_tests.service_server import KEY
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.trainers.orders import GPT, make_order, make_rows, make_task, tiny_adapter


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training rows and a tiny base model to merge adapters into."""
    folder = make_rows(tmp_path_factory.mktemp("rows"))
    make_tiny_model(folder / "base")
    return folder


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "NEBIUS_API_KEY", "AZURE_OPENAI_API_KEY", "TOGETHER_API_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.delenv("TOGETHER_PROJECT_ID", raising=False)


@pytest.fixture
def server(keys: None) -> Iterator[OpenAiJobsServer]:
    with OpenAiJobsServer() as server:
        yield server


@pytest.fixture
def nebius(keys: None) -> Iterator[OpenAiJobsServer]:
    with OpenAiJobsServer(nebius=True) as server:
        server.adapter = tiny_adapter()
        yield server


@pytest.fixture
def ordered(server: OpenAiJobsServer, rows: Path, tmp_path: Path) -> Callable[..., TrainingOrder]:
    """Makes a training order for the server. section: keys of `training.openai`; name: subfolder of the order; training:
    other keys of `training`."""

    def make(section: dict[str, Any] | None = None, name: str = "", **training: Any) -> TrainingOrder:
        spec = make_task("openai", {**GPT, "base_url": server.url, **(section or {})}, **training)
        return make_order(spec, rows, tmp_path / name)

    return make


@pytest.fixture
def order(ordered: Callable[..., TrainingOrder]) -> TrainingOrder:
    return ordered()
