"""One finished run, shared by the tests that only look."""

from __future__ import annotations

import pytest

from finetune_pipeline_tests.graph.project import Project


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--live", action="store_true", help="Buy one small job at each service whose key is in the environment."
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, int, dict]:
    """A project after its first run, with the run's exit code and what it told. Tests must not change it."""
    project = Project(tmp_path_factory.mktemp("finished"), cold=True)  # its memory is held against the plan
    code, told = project.run()
    return project, code, told
