"""Rows and a tiny base model, for tests whose adapter is merged, and a service."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_pipeline_tests.openai_jobs_server import OpenAiJobsServer
from finetune_pipeline_tests.service_server import serving
from finetune_pipeline_tests.unit.trainers.orders import make_base, make_rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = make_rows(tmp_path_factory.mktemp("rows"))
    make_base(rows)
    return rows


@pytest.fixture
def server() -> Iterator[OpenAiJobsServer]:
    server = OpenAiJobsServer()
    with serving(server):
        yield server
