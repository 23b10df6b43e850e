"""A run started by `dagster dev`: cancelled in the UI, then its code server killed, then `dagster dev` stopped."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from finetune_pipeline_tests.dagster_dev import Dev, dagster_dev
from finetune_pipeline_tests.unit.orchestration.jobs import assert_ended, environment
from finetune_pipeline_tests.unit.processes import is_running, number_in, wait_until

JOB = "in_many_processes"


class Training:
    """The process ids of a run's training child and of the grandchild it starts."""

    def __init__(self, folder: Path) -> None:
        wait_until((folder / "child").exists, 300)
        self.pids = [number_in(folder / "child"), number_in(folder / "grandchild")]
        for name in ("child", "grandchild"):
            (folder / name).unlink()

    def is_running(self) -> bool:
        return all(map(is_running, self.pids))


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dev]:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    with dagster_dev(tmp_path / "dev.log", os.environ, "-m", "finetune_pipeline_tests.unit.orchestration.jobs") as dev:
        yield dev


def test_a_run_is_cancelled_and_outlives_what_dies_around_it(dev: Dev, tmp_path: Path) -> None:
    # cancelled in the UI
    first = dev.launch(JOB)
    training = Training(tmp_path)
    assert dev.terminate(first) == "TerminateRunSuccess"
    assert_ended(tmp_path, *training.pids)
    wait_until(lambda: dev.status(first) == "CANCELED", 120)
    assert (tmp_path / "attempts").read_text() == "x", "a cancelled run was started again"

    # code server killed: the training continues
    second = dev.launch(JOB)
    training = Training(tmp_path)
    servers = dev.processes("dagster api grpc")
    assert servers
    for server in servers:
        server.kill()
    time.sleep(3)
    assert training.is_running() and dev.status(second) == "STARTED"

    # `dagster dev` stopped: the training continues
    dev.process.send_signal(signal.SIGTERM)
    dev.process.wait(120)
    time.sleep(3)
    assert training.is_running(), "the training ended with `dagster dev`"

    # no process is left to signal the run: its status in Dagster ends it
    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(second)
        assert run is not None and run.status == dg.DagsterRunStatus.STARTED
        instance.report_run_canceled(run)
        assert_ended(tmp_path, *training.pids)
    assert (tmp_path / "attempts").read_text() == "xx"
