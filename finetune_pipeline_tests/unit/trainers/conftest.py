"""Rows and a tiny base model, for tests whose adapter is merged."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_pipeline_tests.unit.trainers.orders import make_base, make_rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = make_rows(tmp_path_factory.mktemp("rows"))
    make_base(rows)
    return rows
