"""Training on a Ray cluster leaves what training here leaves, whoever dies meanwhile. One small cluster serves all tests."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.numpy import load_file

from finetune_pipeline.faults import JobError
from finetune_pipeline.trainers import TrainingOrder, preflight, train
from finetune_pipeline.trainers.ray import job_name, refine_on_ray
from finetune_pipeline.trainers.ray_cluster import connect
from finetune_pipeline.trainers.ray_jobs import runtime_env
from finetune_pipeline.trainers.storage import Storage
from finetune_pipeline.training.facts import RefinedFacts
from finetune_pipeline.training.refine import refine
from finetune_pipeline_tests.ray_cluster import LocalCluster, local_cluster
from finetune_pipeline_tests.s3_server import BUCKET, SECRET, make_bucket, s3_server
from finetune_pipeline_tests.unit.processes import is_running, wait_until
from finetune_pipeline_tests.unit.trainers.test_local import Starter
from finetune_pipeline_tests.unit.training.jobs import ROOT, settings, task
from finetune_pipeline_tests.unit.training.test_refine import first, labelled
from finetune_pipeline_tests.unit.training.test_refine import job as refine_job

__all__ = ["first"]

pytest.importorskip("ray")
ROWS = 16
TOLERANCE = 2e-5
"""Relative, of losses: sums over two workers add in another order than sums over one."""
WAIT = 400.0
ADAPTER = "adapter/adapter_model.safetensors"
QUICK = {"env_vars": {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "OMP_NUM_THREADS": "1"}}
"""Ray's controller looks at its workers every two seconds otherwise, and each report waits for it."""
SUBMIT = """
import sys
from pathlib import Path
from finetune_pipeline.trainers import train
from finetune_pipeline_tests.unit.trainers.test_ray import order_of
train(order_of(Path(sys.argv[1]), Path(sys.argv[2]), **__import__("json").loads(sys.argv[3])))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A running cluster of two CPUs, whose environment leads to an S3 server and a FINETUNE_HOME."""
    folder = tmp_path_factory.mktemp("home")
    with s3_server(folder) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, "FINETUNE_HOME": str(folder)}.items():
            patch.setenv(name, value)
        patch.delenv("PYTHONPATH", raising=False)  # what a job finds on its path is what it was given
        make_bucket()
        with local_cluster(cpus=2) as cluster:
            yield cluster


def order_of(inputs: Path, place: Path, **changes: Any) -> TrainingOrder:
    usual = {"trainer": "ray", "method": "lora", "epochs": 1, "evals_per_epoch": 1, "micro_batch_size": 4}
    ray = {"runtime_env": QUICK, **changes.pop("ray", {})}
    files = inputs / "base", inputs / "train.jsonl", inputs / "validation.jsonl"
    spec = task(settings(**{**usual, **changes}, ray=ray))
    return TrainingOrder(spec, *files, place / "out", place / "work", Starter())


def trained_here(inputs: Path, place: Path, **changes: Any) -> dict[str, Any]:
    return train(order_of(inputs, place, trainer="local", **changes))


def submitted(inputs: Path, place: Path, **changes: Any) -> subprocess.Popen[str]:
    """A process of its own that trains on the cluster."""
    return subprocess.Popen(
        [sys.executable, "-c", SUBMIT, str(inputs), str(place), json.dumps(changes)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def attempts(cluster: LocalCluster, order: TrainingOrder) -> dict[str, str]:
    """Every job of a training that the cluster knows, and how it stands."""
    jobs = connect(cluster.address).list_jobs()
    return {str(j.submission_id): str(j.status) for j in jobs if str(j.submission_id).startswith(job_name(order))}


def first_checkpoint(storage: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the cluster has a checkpoint, and Ray Train has written down that it has."""

    def there() -> bool:
        assert process.poll() is None, process.communicate()[1]
        return any(storage.glob("*/checkpoints/*/checkpoint_manager_snapshot.json"))

    wait_until(there, WAIT)


def training_workers(cluster: LocalCluster) -> list[psutil.Process]:
    workers = []
    for process in cluster.processes():
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                workers.append(process)
    return workers


def losses(facts: Mapping[str, Any]) -> list[float]:
    return [(entry.loss, entry.eval_loss) for entry in facts.history]


def test_one_worker_trains_what_this_machine_trains_through_an_object_store(inputs, cluster, tmp_path) -> None:
    order = order_of(inputs, tmp_path / "ray", ray={"address": cluster.address, "storage": f"s3://{BUCKET}/jobs"})
    assert [f for f in preflight(order.spec, tmp_path) if f.severity == "error"] == []
    facts, expected = train(order), trained_here(inputs, tmp_path / "here")
    assert losses(facts) == losses(expected) and facts.best_eval_loss < facts.first_eval_loss
    assert (order.out / ADAPTER).read_bytes() == (tmp_path / "here/out" / ADAPTER).read_bytes()
    output_files = {p.name for p in order.out.rglob("*") if p.is_file()}
    assert output_files == {p.name for p in (tmp_path / "here/out").rglob("*") if p.is_file()}

    # rows do not stay behind, the base model does
    storage = Storage(f"s3://{BUCKET}")
    stored_paths = [str(path) for path in storage.fs.find(storage.root)]
    assert stored_paths and all(path.startswith(f"{BUCKET}/jobs/bases/") for path in stored_paths), stored_paths

    (submission,) = attempts(cluster, order)
    info = connect(cluster.address).get_job_info(submission)
    assert SECRET not in repr(info)
    for folder in (order.out, order.work, cluster.folder, Path(os.environ["FINETUNE_HOME"])):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_socket():
                assert SECRET.encode() not in path.read_bytes(), path

    # the result was taken into the work folder: an attempt that died before its artifact was there needs no job
    second_facts = train(
        order_of(inputs, tmp_path / "ray", ray={"address": cluster.address, "storage": f"s3://{BUCKET}/jobs"})
    )
    assert second_facts == facts and list(attempts(cluster, order)) == [submission]


@pytest.mark.parametrize("method", ["kto", pytest.param("dpo", marks=pytest.mark.ray)])
def test_a_second_stage_ends_with_the_bits_of_one_here(
    first: Path, cluster: LocalCluster, tmp_path: Path, method: str
) -> None:
    here, there = (refine_job(first, tmp_path / name, labelled(), method) for name in ("here", "there"))
    facts, _ = refine(here)
    ray = {"address": cluster.address, "storage": str(tmp_path / "shared"), "workers": 2, "runtime_env": QUICK}
    spec = task(settings(trainer="ray", method="lora", refine={"method": method}, ray=ray))
    assert RefinedFacts.of(refine_on_ray(there, spec)) == facts
    assert (there.out / ADAPTER).read_bytes() == (here.out / ADAPTER).read_bytes()
    assert (there.out / "audit.json").read_bytes() == (here.out / "audit.json").read_bytes()
    assert not list((tmp_path / "shared").glob("demo-*")), "rows do not stay behind"
    shutil.rmtree(there.out)
    assert RefinedFacts.of(refine_on_ray(there, spec)) == facts, "collected already: it needs no second job"
    names = [str(job.submission_id) for job in connect(cluster.address).list_jobs()]
    assert sum(name.startswith("demo-refine-") for name in names) == 1 + (method == "dpo")


@pytest.mark.ray
def test_a_second_stage_goes_on_from_its_checkpoint_after_its_worker_is_lost(first, cluster, tmp_path) -> None:
    here, there = (refine_job(first, tmp_path / name, labelled(40), "dpo", epochs=8.0) for name in ("here", "there"))
    refine(here)
    shared = tmp_path / "shared"
    ray = {"address": cluster.address, "storage": str(shared), "max_failures": 2, "runtime_env": QUICK}
    spec = task(settings(trainer="ray", method="lora", refine={"method": "dpo"}, ray=ray))
    with ThreadPoolExecutor() as pool:
        running = pool.submit(refine_on_ray, there, spec)
        wait_until(lambda: any(shared.glob("*/checkpoints/*/checkpoint_manager_snapshot.json")), WAIT)
        (worker,) = training_workers(cluster)
        worker.kill()
        running.result(WAIT)
    assert json.loads((there.out / "measured.json").read_text())["resumed_from"] is not None
    assert (there.out / ADAPTER).read_bytes() == (here.out / ADAPTER).read_bytes()


@pytest.mark.ray
def test_two_workers_go_on_after_one_is_lost_and_the_next_try_adopts_the_job(inputs, cluster, tmp_path) -> None:
    shared = tmp_path / "shared"
    two = {"address": cluster.address, "workers": 2, "storage": str(shared), "runtime_env": QUICK}
    changes = {"epochs": 6, "dropout": 0.0, "micro_batch_size": 2, "ray": two}
    process = submitted(inputs, tmp_path / "ray", **changes)
    first_checkpoint(shared, process)
    process.kill()
    process.communicate()
    workers = training_workers(cluster)
    assert len(workers) == 2
    workers[1].kill()
    order = order_of(inputs, tmp_path / "ray", **changes)
    facts = train(order)
    assert len(attempts(cluster, order)) == 1, "the orphaned job was adopted"
    measured = json.loads((order.out / "measured.json").read_text())
    assert measured["resumed_from"] is not None
    assert (facts.processes, facts.strategy) == (2, "ddp")

    expected = trained_here(inputs, tmp_path / "here", **{**changes, "micro_batch_size": 4, "ray": {}})
    assert losses(facts) == pytest.approx(losses(expected), rel=TOLERANCE)
    ours, theirs = load_file(order.out / ADAPTER), load_file(tmp_path / "here/out" / ADAPTER)
    for name, tensor in theirs.items():
        assert ours[name] == pytest.approx(tensor, rel=1e-3, abs=2e-5), name
    assert not list(shared.glob("demo-*")), "rows do not stay behind"


@pytest.mark.ray
def test_a_cancelled_run_stops_its_job_and_the_next_one_goes_on_from_the_checkpoint(inputs, cluster, tmp_path) -> None:
    shared = tmp_path / "shared"
    changes = {"epochs": 6, "ray": {"address": cluster.address, "storage": str(shared), "runtime_env": QUICK}}
    process = submitted(inputs, tmp_path / "ray", **changes)
    first_checkpoint(shared, process)
    workers = training_workers(cluster)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WAIT)
    assert "stopped the Ray job" in errors
    order = order_of(inputs, tmp_path / "ray", **changes)
    (first,) = attempts(cluster, order).items()
    assert first[1] == "STOPPED"
    wait_until(lambda: not any(is_running(worker.pid) for worker in workers))

    train(order)
    assert set(attempts(cluster, order)) == {f"{job_name(order)}-1", f"{job_name(order)}-2"}
    assert json.loads((order.out / "measured.json").read_text())["resumed_from"] is not None
    trained_here(inputs, tmp_path / "here", epochs=6)
    assert (order.out / ADAPTER).read_bytes() == (tmp_path / "here/out" / ADAPTER).read_bytes()


@pytest.mark.ray
def test_what_the_workers_refuse_is_told_once(inputs: Path, cluster: LocalCluster, tmp_path: Path) -> None:
    order = order_of(
        inputs, tmp_path, max_tokens=16, ray={"address": cluster.address, "storage": str(tmp_path / "shared")}
    )
    with pytest.raises(JobError, match="training.over_length|max_tokens"):
        train(order)
    (submission,) = attempts(cluster, order)
    assert "started again" not in connect(cluster.address).get_job_logs(submission)


@pytest.mark.ray
def test_driver_and_workers_run_the_package_that_was_sent(cluster: LocalCluster, tmp_path: Path) -> None:
    code = (
        "import ray\n@ray.remote\ndef where():\n    import finetune_pipeline; return finetune_pipeline.__file__\n"
        "import finetune_pipeline\nprint(finetune_pipeline.__file__, ray.get(where.remote()))"
    )
    client = connect(cluster.address)
    job = client.submit_job(entrypoint=f"python -c {shlex.quote(f'exec({code!r})')}", runtime_env=runtime_env({}))
    wait_until(lambda: client.get_job_status(job).is_terminal(), WAIT)
    logs = client.get_job_logs(job)
    driver, worker = (Path(word) for word in logs.split() if word.endswith("finetune_pipeline/__init__.py"))
    for file in (driver, worker):
        assert "runtime_resources" in file.parts, logs
        assert (file.parent / "planning/prices.yaml").is_file(), "files beside the code were sent, too"
