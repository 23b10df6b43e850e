"""Whatever fails on the way to the cluster and back, at most one job runs for a training, and its result arrives."""

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.faults import JobError, OutsideError
from finetune_pipeline.trainers.ray import RayTrainer, job_name
from finetune_pipeline.trainers.ray_job import _listener
from finetune_pipeline.trainers.storage import Storage
from finetune_pipeline_tests.ray_jobs_server import FAULTS, RayJobsServer
from finetune_pipeline_tests.service_server import Reply, Request
from finetune_pipeline_tests.trainings import LOCAL
from finetune_pipeline_tests.unit.trainers.orders import interrupt
from finetune_pipeline_tests.unit.trainers.test_ray import order_of

ROWS = 8

pytest.importorskip("ray")


class Schedule:
    """One training through a job server, by processes that are killed anywhere, with faults at random."""

    def __init__(self, inputs: Path, place: Path, seed: int) -> None:
        self.random, self.inputs, self.place = random.Random(seed), inputs, place
        self.failed = self.requests = 0
        self.injected: Counter[str] = Counter()

    def fault(self, request: Request) -> str | None:
        self.requests += 1
        if self.random.random() >= 0.25:
            return None
        fault = self.random.choice(FAULTS)
        self.injected[fault] += 1
        return fault

    def order(self, server: RayJobsServer) -> Any:
        section = {"address": server.address, "storage": str(self.place / "storage")}
        return order_of(self.inputs, self.place, ray=section)

    def run(self) -> RayJobsServer:
        """Try until the result is there. Every attempt has a trainer of its own, as every process has."""
        with RayJobsServer() as server:
            server.fault = self.fault
            for _ in range(200):
                try:
                    if self.attempt(server):
                        return server
                except (OutsideError, JobError):
                    pass
                assert len(server.running()) <= 1, server.jobs
            raise AssertionError(
                f"no result after {len(server.requests)} requests: {[r.path for r in server.requests[-9:]]}"
            )

    def attempt(self, server: RayJobsServer) -> bool:
        """One process: it submits or adopts, looks a few times, and collects. Returns whether the result arrived."""
        trainer, order = RayTrainer(), self.order(server)
        name = trainer.submit(order)
        if self.random.random() < 0.3:
            self.injected["killed"] += 1
            return False
        for _ in range(self.random.randrange(1, 4)):
            if trainer.poll(name) == "ended":
                break
            self.cluster_goes_on(server, name)
        if trainer.poll(name) == "running" or self.random.random() < 0.2:
            return False
        return bool(trainer.collect(name, order).steps == LOCAL["steps"])

    def cluster_goes_on(self, server: RayJobsServer, name: str) -> None:
        """The running job ends, well or badly."""
        for submission in server.running():
            place = Storage(str(self.place / "storage")).below(name)
            assert place.read_json("job.json")["spec"]["name"] == "demo"
            well = self.random.random() < 0.6
            if well:
                place.write_json("result/result.json", LOCAL)
                place.write_json("result.complete", {})
            else:
                self.failed += 1
                place.write_json("error.json", {"code": 1, "kind": "error", "message": "a worker was lost"})
            server.finish(submission, "SUCCEEDED" if well else "FAILED")


def check_schedule(inputs: Path, place: Path, seed: int) -> Schedule:
    """Run a schedule; every job that was submitted failed, but for the last one."""
    schedule = Schedule(inputs, place, seed)
    server = schedule.run()
    assert len(server.jobs) == schedule.failed + 1, (seed, server.jobs)
    name = job_name(schedule.order(server))
    assert list(server.jobs) == [f"{name}-{number + 1}" for number in range(len(server.jobs))], seed
    shutil.rmtree(place)
    return schedule


def test_no_training_runs_twice(inputs: Path, tmp_path: Path) -> None:
    schedules = [check_schedule(inputs, tmp_path / str(seed), seed) for seed in range(8)]
    assert sum(schedule.failed for schedule in schedules) > 2
    injected = sum((schedule.injected for schedule in schedules), Counter())
    assert set(injected) == {*FAULTS, "killed"}


def test_a_failed_job_is_told_with_its_reason_and_where_to_look(inputs: Path, tmp_path: Path) -> None:
    with RayJobsServer() as server:
        order = order_of(inputs, tmp_path, ray={"address": server.address, "storage": str(tmp_path / "storage")})
        for code, kind in ((64, JobError), (1, OutsideError)):
            trainer = RayTrainer()
            name = trainer.submit(order)
            (submission,) = server.running()
            place = Storage(str(tmp_path / "storage")).below(name)
            place.write_json("error.json", {"code": code, "kind": "job", "message": "the rows are too long"})
            server.finish(submission, "FAILED")
            assert trainer.poll(name) == "ended"
            with pytest.raises(kind, match="the rows are too long"):
                trainer.collect(name, order)
        assert len(server.jobs) == 2, "what failed is tried anew when it is asked for again"


def test_an_interrupt_at_the_submission_leaves_no_job_running(
    inputs: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    from ray.job_submission import JobSubmissionClient

    usual = JobSubmissionClient.submit_job

    def submit_and_interrupt(client: JobSubmissionClient, **job: Any) -> None:
        usual(client, **job)
        raise KeyboardInterrupt

    monkeypatch.setattr(JobSubmissionClient, "submit_job", submit_and_interrupt)
    with RayJobsServer() as server:
        order = order_of(inputs, tmp_path, ray={"address": server.address, "storage": str(tmp_path / "storage")})
        with pytest.raises(KeyboardInterrupt):
            RayTrainer().submit(order)
        assert len(server.jobs) == 1 and not server.running()
        monkeypatch.setattr(JobSubmissionClient, "submit_job", interrupt)
        capsys.readouterr()
        with pytest.raises(KeyboardInterrupt):
            RayTrainer().submit(order)
        assert len(server.jobs) == 1 and "could not be stopped" not in capsys.readouterr().err, "there is none"


def test_a_worker_goes_on_while_the_storage_is_away_and_says_all_later(tmp_path: Path) -> None:
    folder = tmp_path / "this::place"  # a folder, and no chain of file systems
    place = Storage(str(folder))
    folder.touch()  # no folder can be there
    keep = _listener(place, "worker 1", tmp_path / "history.jsonl")
    keep("step 1")
    folder.unlink()
    keep("step 2")
    assert (folder / "said.json").is_file()
    assert place.read_json("said.json") == {"worker": "worker 1", "lines": ["step 1", "step 2"]}


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"<html>\n<h1>502 Bad Gateway</h1>\n</html>\n", 502, "reports an error: Request failed with status code 502$"),
        (b"<html>\nplease log in\n</html>\n", 200, "does not answer"),
        (b"Traceback:\n  File <string>\nValueError: no room\n", 500, "reports an error: ValueError: no room"),
    ],
)
def test_what_stands_before_a_cluster_or_fails_in_it_is_told_in_one_line(
    inputs: Path, tmp_path: Path, content: bytes, status: int, message: str
) -> None:
    with RayJobsServer() as server:
        usual = server.answer
        server.answer = lambda request: (  # type: ignore[method-assign]
            usual(request) if request.path == "/api/version" else Reply(content, status)
        )
        order = order_of(inputs, tmp_path, ray={"address": server.address, "storage": str(tmp_path / "storage")})
        with pytest.raises(OutsideError, match=message) as told:
            RayTrainer().submit(order)
        assert "\n" not in str(told.value)
