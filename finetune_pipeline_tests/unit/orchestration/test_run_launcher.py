"""A run that is started in a code server, as the UI and the daemon start them, and whose processes are killed.
Cancelling one: end_to_end/test_dagster_dev.py."""

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster._cli.job import _create_run
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration

from finetune_pipeline.orchestration.abandoned import free_leftover_slots, is_abandoned, process_start
from finetune_pipeline_tests.unit.orchestration import jobs
from finetune_pipeline_tests.unit.orchestration.jobs import ROOT, assert_ended, environment
from finetune_pipeline_tests.unit.processes import is_running, number_in, wait_until


class Launched:
    """A run of the test job that trains, with its processes."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance, workspace: Any) -> None:
        self.folder, self.instance, self.workspace = folder, instance, workspace
        request = workspace.create_request_context()
        (location,) = request.code_locations
        (repository,) = location.get_repositories().values()
        remote = repository.get_full_job("in_many_processes")
        self.run = _create_run(instance, location, repository, remote, {}, None, None, None)
        instance.launch_run(self.run.run_id, request)
        wait_until((folder / "child").exists, 120)
        self.child, self.grandchild = number_in(folder / "child"), number_in(folder / "grandchild")

    def worker(self) -> psutil.Process:
        """The process that runs the run; Dagster tells its number in the run's log."""
        (number,) = {
            int(match.group(1))
            for entry in self.instance.all_logs(self.run.run_id)
            if (match := re.search(r"Started process for run \(pid: (\d+)\)", entry.message))
        }
        return psutil.Process(number)

    def status(self) -> dg.DagsterRunStatus:
        run = self.instance.get_run_by_id(self.run.run_id)
        assert run is not None
        return run.status

    def monitor(self) -> None:
        """What the daemon does every ten seconds."""
        assert not any(execute_run_monitoring_iteration(self.workspace, logging.getLogger("daemon")))

    def assert_nothing_left(self) -> None:
        assert_ended(self.folder, self.child, self.grandchild)
        assert (self.folder / "attempts").read_text() == "x", "it was tried again"


@contextmanager
def workspace_of(instance: dg.DagsterInstance) -> Iterator[Any]:
    """The code server of the test jobs."""
    target = ModuleTarget(jobs.__name__, attribute=None, working_directory=str(ROOT), location_name="test")
    with WorkspaceProcessContext(instance, target) as workspace:
        yield workspace


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launched]:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.get() as instance, workspace_of(instance) as workspace:
        made = Launched(tmp_path, instance, workspace)
        yield made
        for pid in (made.child, made.grandchild):
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("everything", [True, False], ids=["everything", "all but the step"])
def test_a_run_whose_code_server_was_killed_with_it_is_ended_and_frees_its_slot(
    launched: Launched, everything: bool
) -> None:
    """As when the machine loses its power: nobody is left who could tell how the run ended."""
    storage, worker = launched.instance.event_log_storage, launched.worker()
    run = launched.instance.get_run_by_id(launched.run.run_id)
    assert run is not None and not is_abandoned(launched.instance, run), "its process lives"
    assert "finetune/launched" in run.tags
    (mark,) = [e.message for e in launched.instance.all_logs(run.run_id) if "after the machine" in e.message]
    number, began = re.findall(r"[\d.]+", mark)
    assert int(number) == worker.pid and float(began) == pytest.approx(process_start(worker.pid), abs=0.1)
    storage.set_concurrency_slots("gpu", 1)
    assert storage.claim_concurrency_slot("gpu", launched.run.run_id, "adapter").is_claimed
    server = worker.parent()
    assert server is not None
    killed = [server, *server.children(recursive=True)]
    if not everything:
        killed = [server, worker]
        launched.monitor()  # knows the process already
    for process in killed:
        process.kill()
    psutil.wait_procs(killed, 30)
    assert launched.status() == dg.DagsterRunStatus.STARTED
    free_leftover_slots(launched.instance)  # what a command line does that waits; the daemon's way is a setting
    assert not storage.get_concurrency_info("gpu").claimed_slots
    launched.monitor()
    assert launched.status() == dg.DagsterRunStatus.FAILURE
    launched.assert_nothing_left()


def test_a_launched_run_that_waits_goes_on_though_another_was_killed_while_it_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No daemon is needed: the slot is assigned to a run that is gone, and the launched run itself takes it away."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.get() as instance, workspace_of(instance) as workspace:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 1)
        tags = {"finetune/pid": str(os.getpid()), "finetune/process_started": "0.0"}  # another process had the number
        working, gone = (instance.create_run_for_job(jobs.nothing, tags=tags).run_id for _ in range(2))
        assert storage.claim_concurrency_slot("gpu", working, "adapter").is_claimed
        assert not storage.claim_concurrency_slot("gpu", gone, "adapter").is_claimed
        storage.free_concurrency_slots_for_run(working)
        assert storage.get_concurrency_info("gpu").assigned_run_ids == {gone}
        request = workspace.create_request_context()
        (location,) = request.code_locations
        (repository,) = location.get_repositories().values()
        remote = repository.get_full_job("waits_in_many_processes")
        run_id = _create_run(instance, location, repository, remote, {}, None, None, None).run_id
        instance.launch_run(run_id, request)
        wait_until(lambda: instance.get_runs(dg.RunsFilter(run_ids=[run_id]))[0].is_finished, 120)
        assert instance.get_runs(dg.RunsFilter(run_ids=[run_id]))[0].status == dg.DagsterRunStatus.SUCCESS
        assert not storage.get_concurrency_run_ids()


def test_a_zombie_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.read() == b""
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        with pytest.raises(psutil.NoSuchProcess):
            process_start(process.pid)
