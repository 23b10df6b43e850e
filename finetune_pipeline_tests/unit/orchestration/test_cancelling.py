"""Real Dagster runs, in processes of their own, cancelled and killed in the ways that happen."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from finetune_pipeline_tests import warm_workers
from finetune_pipeline_tests.unit.orchestration import jobs
from finetune_pipeline_tests.unit.orchestration.jobs import ROOT, assert_ended
from finetune_pipeline_tests.unit.processes import is_running, number_in, wait_until


class Run:
    """`dagster job execute` with the project's own dagster.yaml and a home of its own, with everything imported already."""

    def __init__(self, folder: Path, job: str, **behave: Any) -> None:
        self.folder = folder
        self.log = (folder / "run.log").open("w")
        self.process = subprocess.Popen(
            warm_workers.call_command(jobs.execute, job),
            env={**os.environ, **warm_workers.start(), **jobs.environment(folder, **behave)},
            cwd=folder,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def wait_for_training(self) -> None:
        """Wait until the child works; show the run's output if it never will."""
        wait_until(lambda: (self.folder / "child").exists() or self.process.poll() is not None, 60)
        assert self.process.poll() is None, (self.folder / "run.log").read_text()[-3000:]
        self.child = number_in(self.folder / "child")
        self.step = number_in(self.folder / "parent")

    def record(self, instance: dg.DagsterInstance) -> dg.DagsterRun:
        (run,) = instance.get_runs()
        return run

    def events(self, instance: dg.DagsterInstance) -> list[Any]:
        entries = instance.all_logs(self.record(instance).run_id)
        return [entry.dagster_event for entry in entries if entry.is_dagster_event]

    def cancel(self, instance: dg.DagsterInstance) -> None:
        """What "terminate" in the UI does: mark the run, and interrupt the process that runs it."""
        instance.report_run_canceling(self.record(instance))
        os.kill(self.process.pid, signal.SIGINT)

    def attempts(self) -> int:
        return len((self.folder / "attempts").read_text())

    def assert_nothing_left(self) -> None:
        assert_ended(self.folder, self.child, number_in(self.folder / "grandchild"))

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        for path in (self.folder / "child", self.folder / "grandchild"):
            if path.exists() and is_running(number_in(path)):
                os.kill(number_in(path), signal.SIGKILL)


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_HOME", str(ROOT))
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    with dg.DagsterInstance.get() as made:
        yield made


@pytest.fixture
def start(tmp_path: Path, instance: dg.DagsterInstance) -> Iterator[Any]:
    runs: list[Run] = []

    def start_run(job: str, *, trains: bool = True, **behave: Any) -> Run:
        runs.append(Run(tmp_path, job, **behave))
        if trains:
            runs[-1].wait_for_training()
        return runs[-1]

    yield start_run
    for run in runs:
        run.close()


def test_a_cancelled_run_is_not_tried_again(start: Any, instance: dg.DagsterInstance) -> None:
    run = start("in_many_processes", ignore_signals=True)
    run.cancel(instance)
    run.process.wait(timeout=60)
    run.assert_nothing_left()
    assert run.record(instance).status == dg.DagsterRunStatus.CANCELED and run.attempts() == 1
    (failure, *_) = [e for e in run.events(instance) if e.is_step_failure]
    assert "adapter was stopped: the run was cancelled" in failure.step_failure_data.user_failure_data.description


def test_an_interrupt_without_a_cancel_is_not_answered_with_a_retry(start: Any, instance: dg.DagsterInstance) -> None:
    run = start("in_one_process")
    os.kill(run.process.pid, signal.SIGINT)
    run.process.wait(timeout=60)
    run.assert_nothing_left()
    assert run.record(instance).status == dg.DagsterRunStatus.FAILURE and run.attempts() == 1
    (captured,) = [e.logs_captured_data for e in run.events(instance) if e.event_type_value == "LOGS_CAPTURED"]
    place = [run.record(instance).run_id, "compute_logs", captured.file_key]
    log_data = instance.compute_log_manager.get_log_data(place)
    assert b"told to stdout" in log_data.stdout and b"told to stderr" in log_data.stderr, (
        "the training's own, with the step's"
    )


def test_a_killed_step_takes_its_training_with_it_and_is_tried_again(start: Any, instance: dg.DagsterInstance) -> None:
    run = start("in_many_processes")
    first = [run.child, number_in(run.folder / "grandchild")]
    assert run.step != number_in(run.folder / "run")
    os.kill(run.step, signal.SIGKILL)
    wait_until(lambda: run.attempts() == 2, 60)  # the device is free again: the second attempt holds its lease
    wait_until(lambda: number_in(run.folder / "child") != run.child)
    assert not any(map(is_running, first))
    run.child = number_in(run.folder / "child")
    run.cancel(instance)
    run.process.wait(timeout=60)
    run.assert_nothing_left()
    assert run.record(instance).status == dg.DagsterRunStatus.CANCELED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("cancelled", [True, False])
def test_a_run_that_waits_for_a_pool_obeys_a_signal(
    start: Any, instance: dg.DagsterInstance, number: signal.Signals, cancelled: bool
) -> None:
    storage = instance.event_log_storage
    holder = instance.create_run_for_job(jobs.nothing, status=dg.DagsterRunStatus.STARTED).run_id
    storage.set_concurrency_slots("gpu", 1)
    assert storage.claim_concurrency_slot("gpu", holder, "adapter").is_claimed
    run = start("waits", trains=False)
    wait_until(lambda: storage.get_concurrency_info("gpu").pending_run_ids or run.process.poll() is not None, 60)
    (waiting,) = storage.get_concurrency_info("gpu").pending_run_ids
    if cancelled:
        instance.report_run_canceling(instance.get_runs(dg.RunsFilter(run_ids=[waiting]))[0])
    os.kill(run.process.pid, number)
    run.process.wait(timeout=60)
    (ended,) = instance.get_runs(dg.RunsFilter(run_ids=[waiting]))
    assert ended.status == (dg.DagsterRunStatus.CANCELED if cancelled else dg.DagsterRunStatus.FAILURE)
    info = storage.get_concurrency_info("gpu")
    assert info.active_run_ids == {holder} and not info.pending_step_count
