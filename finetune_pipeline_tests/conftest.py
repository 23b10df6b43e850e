"""One finished run, shared by the tests that only look."""

import gc
import json
import os
import pickle
import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest

from finetune_pipeline.engine.files import hold
from finetune_pipeline_tests import warm_workers, wheel
from finetune_pipeline_tests.graph.project import Finished, Project
from finetune_pipeline_tests.shared import Shared

# torch's compiler imports setuptools, which refuses a process that has imported distutils without it, as some test does
os.environ.setdefault("SETUPTOOLS_USE_DISTUTILS", "stdlib")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--live", action="store_true", help="Buy one small job at each service whose key is in the environment."
    )
    parser.addoption("--ray", action="store_true", help="Also run what takes minutes on a real Ray cluster.")


def pytest_configure(config: pytest.Config) -> None:
    # a shell that starts the tests in the background has them and what they start ignore interrupts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Shared.get()  # the process that starts the others ends last


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What the tests import stays, so no garbage collection looks for garbage in it, now or later."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


FIRST = [
    f"test_{name}.py"
    for name in "whole_graph bundled_model verdicts ray ladder methods hosted_model judge doctor".split()
]
"""The first of these makes `finished`, which many wait for, while others run that do without it; all take long."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))
    if not config.getoption("--ray"):
        for item in items:
            if item.get_closest_marker("ray"):
                item.add_marker(pytest.mark.skip(reason="minutes on a real Ray cluster: make test-ray"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Finished:
    """A project after its first run, with the run's exit code and its answer. Tests must not change it: those of all
    test processes get the same one, made by the first that asks.

    The run is that of somebody who installed the wheel, in the project's folder, which says all: no variable is set. Cold
    starts take most of its time, so it finds what comes before the test predictions as warm workers have made it.
    """
    own = tmp_path_factory.getbasetemp()
    root = own if worker_id == "master" else own.parent
    done = root / "finished.pickle"
    with hold(root / ".finished.lock"):
        if not done.exists():
            warm = Project(root / "warm", split={"test": 0.4})
            warm.home = warm.home.rename(warm.root / ".finetune")
            run = ("run", "colours", "--json")
            variables = {**wheel.ENVIRONMENT, **warm_workers.start(), "PYTHONPATH": str(wheel.ROOT)}
            first = subprocess.run(
                warm.command(*run), cwd=warm.root, env=variables, text=True, capture_output=True, check=False
            )
            assert first.returncode in (0, 2), first.stderr[-3000:]
            project = Project.continued(warm, root / "finished", "test_predictions", cold=True)
            project.home = project.home.rename(project.root / ".finetune")
            shutil.rmtree(project.home / "mlflow")
            rates = (warm.home / "throughput.json").read_text()
            (project.home / "throughput.json").write_text(rates.replace(str(warm.root), str(project.root)))
            for name in ("datasets", "evaluate", "mlflow", "yaml"):  # names that projects use, and that we import
                (project.root / f"{name}.py").write_text("raise SystemExit('imported from the project')\n")
            command = wheel.command(wheel.install(root / "wheel"), *run)
            made = subprocess.run(command, cwd=project.root, env=wheel.ENVIRONMENT, capture_output=True, check=False)
            assert made.stdout, made.stderr.decode()[-3000:]
            assert made.returncode == first.returncode
            done.write_bytes(pickle.dumps((project, made.returncode, json.loads(made.stdout))))
    return pickle.loads(done.read_bytes())
