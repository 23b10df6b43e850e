"""Options and order of the test session, and `finished`: one completed run that read-only tests share."""

import gc
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_pipeline.engine.files import hold
from finetune_pipeline_tests import ray_cluster, warm_workers, wheel
from finetune_pipeline_tests.graph.project import Finished, Project
from finetune_pipeline_tests.shared import Shared, disable_fsync

# torch's compiler imports setuptools, which fails in a process that has already imported the standard library's distutils
if sys.version_info < (3, 12):  # later ones have none, and setuptools would fail in looking for it
    os.environ.setdefault("SETUPTOOLS_USE_DISTUTILS", "stdlib")
ray_cluster.require_token()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--live", action="store_true", help="Buy a small job at each service whose API key is set.")
    parser.addoption("--ray", action="store_true", help="Also run the slow tests on a real Ray cluster.")


def pytest_configure(config: pytest.Config) -> None:
    # processes started in the background of a shell ignore SIGINT, and so would their children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Shared.get()  # owned by the main process, which outlives the xdist workers
    disable_fsync()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Exempt imported modules, which are never garbage, from garbage collection."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


SLOWEST_FIRST = [
    f"test_{name}.py"
    for name in "whole_graph bundled_model verdicts ray dagster_dev rehearsal doctor ladder methods hosted_model judge".split()
]
"""Slow files that start first. `test_whole_graph.py` makes `finished`, for which those from `test_ladder.py` on wait."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    priorities = {name: priority for priority, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: priorities.get(item.path.name, len(priorities)))
    for item in items:
        if item.get_closest_marker("ray") and not config.getoption("--ray"):
            item.add_marker(pytest.mark.skip(reason="minutes on a real Ray cluster: make test-ray"))


_LEFT_AS_FOUND = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "DAGSTER_HOME", "FINETUNE_HOME", "FINETUNE_DATA")


@pytest.fixture(autouse=True)
def environment_is_left_as_found() -> Iterator[None]:
    """Fail the test that leaves the address of its own store to the tests after it, not one of those."""
    before = {name: os.environ.get(name) for name in _LEFT_AS_FOUND}
    yield
    assert {name: os.environ.get(name) for name in _LEFT_AS_FOUND} == before


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Finished:
    """A project after its first run. The first test process to need it makes it for all; tests must not change it.

    The run uses the installed wheel in the project's folder, with no environment variables of the pipeline. Cold starts would
    dominate its time, so warm workers run the steps before the test predictions in a copy of the project beforehand.
    """
    base_temp = tmp_path_factory.getbasetemp()
    root = base_temp if worker_id == "master" else base_temp.parent
    pickled = root / "finished.pickle"
    with hold(root / ".finished.lock"):
        if not pickled.exists():
            pickled.write_bytes(pickle.dumps(_make_finished(root)))
    return pickle.loads(pickled.read_bytes())


def _make_finished(root: Path) -> Finished:
    arguments = ("run", "colours", "--json")
    warm = Project(root / "warm", split={"test": 0.4})
    warm.home = warm.home.rename(warm.root / ".finetune")
    environment = {**wheel.ENVIRONMENT, **warm_workers.start(), "PYTHONPATH": str(wheel.ROOT)}
    command = warm.command(*arguments)
    warm_run = subprocess.run(command, cwd=warm.root, env=environment, text=True, capture_output=True, check=False)
    assert warm_run.returncode in (0, 2), warm_run.stderr[-3000:]
    project = Project.continued(warm, root / "finished", "test_predictions", cold=True)
    project.home = project.home.rename(project.root / ".finetune")
    shutil.rmtree(project.home / "mlflow")
    for name in ("datasets", "evaluate", "mlflow", "yaml"):  # the wheel must not import these from the project
        (project.root / f"{name}.py").write_text("raise SystemExit('imported from the project')\n")
    command = wheel.command(wheel.install(root / "wheel"), *arguments)
    run = subprocess.run(command, cwd=project.root, env=wheel.ENVIRONMENT, text=True, capture_output=True, check=False)
    assert run.stdout, run.stderr[-3000:]
    assert run.returncode == warm_run.returncode
    return Finished(project, run.returncode, json.loads(run.stdout))
