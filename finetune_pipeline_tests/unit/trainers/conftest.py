"""Rows, services of OpenAI's protocol, and orders for them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.trainers import TrainingOrder
from finetune_pipeline_tests.openai_jobs_server import OpenAiJobsServer
from finetune_pipeline_tests.service_server import KEY, serving
from finetune_pipeline_tests.unit.trainers.orders import GPT, make_base, make_order, make_rows, make_task, tiny_adapter
from finetune_pipeline_tests.unit.training.jobs import make_inputs


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows and a tiny base model, for tests whose adapter is merged."""
    rows = make_rows(tmp_path_factory.mktemp("rows"))
    make_base(rows)
    return rows


@pytest.fixture(scope="module")
def inputs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, and as many training rows as the module's ROWS says."""
    return make_inputs(tmp_path_factory.mktemp("inputs"), request.module.ROWS)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "NEBIUS_API_KEY", "AZURE_OPENAI_API_KEY", "TOGETHER_API_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.delenv("TOGETHER_PROJECT_ID", raising=False)


@pytest.fixture
def server(keys: None) -> Iterator[OpenAiJobsServer]:
    server = OpenAiJobsServer()
    with serving(server):
        yield server


@pytest.fixture
def nebius(keys: None) -> Iterator[OpenAiJobsServer]:
    server = OpenAiJobsServer(nebius=True)
    server.adapter = tiny_adapter()
    with serving(server):
        yield server


@pytest.fixture
def ordered(server: OpenAiJobsServer, rows: Path, tmp_path: Path) -> Callable[..., TrainingOrder]:
    """Makes an order at the server. section: of the task; training: other keys of it; name: of the order's own folder."""

    def ordered(section: dict[str, Any] | None = None, name: str = "", **training: Any) -> TrainingOrder:
        spec = make_task("openai", {**GPT, "base_url": server.url, **(section or {})}, **training)
        return make_order(spec, rows, tmp_path / name)

    return ordered


@pytest.fixture
def order(ordered: Callable[..., TrainingOrder]) -> TrainingOrder:
    return ordered()
