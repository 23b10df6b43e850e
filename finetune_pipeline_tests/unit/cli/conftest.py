"""Calls commands in the test process, since a process per call would take seconds."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from finetune_pipeline.cli import main
from finetune_pipeline.cli.documents import DOCUMENTS, document_schema
from finetune_pipeline_tests.shared import Shared


@cache
def validator(command: str) -> Draft202012Validator:
    return Draft202012Validator(document_schema(command))


class Done(NamedTuple):
    """A command's exit code and output."""

    returncode: int
    stdout: str
    stderr: str
    command: str = ""

    @property
    def json(self) -> dict[str, Any]:
        """The document, which keeps to the published schema of its command."""
        document = json.loads(self.stdout)
        if self.command in DOCUMENTS and "$schema" not in document and "$defs" not in document:
            error = best_match(validator(self.command).iter_errors(document))
            assert error is None, f"{self.command}: {error.json_path}: {error.message[:300]}"
        return document


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Restore the environment, which commands change."""
    Shared.get()  # sets a variable that must remain
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture
def finetune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Calls ``finetune``. data, home: By default data/ and home/ in the test's folder."""
    for name in ("MLFLOW_TRACKING_URI", "DAGSTER_HOME", "FINETUNE_PROGRESS"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str | Path, data: Path = tmp_path / "data", home: Path = tmp_path / "home") -> Done:
        with monkeypatch.context() as patch:
            patch.setenv("FINETUNE_DATA", str(data))
            patch.setenv("FINETUNE_HOME", str(home))
            patch.setattr(sys, "argv", ["finetune", *map(str, arguments)])
            capfd.readouterr()
            with pytest.raises(SystemExit) as end:
                main.main()
        return Done(end.value.code, *capfd.readouterr(), str(arguments[0]))  # type: ignore[arg-type]

    return call
