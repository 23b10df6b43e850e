"""Trains on a Ray cluster: one Ray job a training, found again by its id, whatever happened to us meanwhile.

The id is made of rows, base model and settings. Before a job is submitted, the cluster is asked for it: one that runs is
adopted, one that failed is followed by a new attempt, and a result that is there already is collected.

dagster-ray's PipesRayJobClient submits such jobs too, but it needs a Dagster context, which a trainer has none of, and it
neither looks for a job before it submits one nor gets one back that it has lost.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import finetune_pipeline
from finetune_pipeline.engine.store import digest_file, digest_json, read_json, write_json
from finetune_pipeline.faults import JobError, OutsideError
from finetune_pipeline.findings import Finding
from finetune_pipeline.models.identity import MODEL_FILE, model_folder, record_digest
from finetune_pipeline.progress import tell
from finetune_pipeline.reporting import say
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec.baseline import is_local
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.training import RaySection, decisive_settings
from finetune_pipeline.trainers.base import Trainer, TrainingOrder, register
from finetune_pipeline.trainers.ray_cluster import Cluster, answers, started_cluster
from finetune_pipeline.trainers.ray_job import ENTRYPOINT
from finetune_pipeline.trainers.storage import Storage, storage_findings
from finetune_pipeline.worker.entry import DEFAULTS, ENVIRONMENT
from finetune_pipeline.worker.process import NO_RETRY

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_PLACE = "task.yaml: training.ray"
_BASE_FILES = (".json", ".jinja", ".safetensors", ".model", ".txt")
_OUT_OF_REACH_SECONDS = 600.0
"""How long a cluster may be out of reach before a training is given up; its job goes on and is adopted by the next try."""
_AGENT_SECONDS = 120.0
"""How long a cluster that has just started may take until it accepts jobs."""
_STOP_SECONDS = 60.0


@dataclass
class _Job:
    """A job that this process follows. submission: its id on the cluster; None: only its result is left to collect."""

    cluster: Cluster | None
    submission: str | None
    place: Storage
    work: Path
    worker: str = ""
    lines: int = 0
    out_of_reach: float | None = None


@register
class RayTrainer(Trainer):
    """Submits to the cluster's job server; inputs and results travel by the storage."""

    name = "ray"
    where = "the Ray cluster of `training.ray`"
    poll_seconds = 2.0

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}

    def preflight(self, spec: TaskSpec) -> list[Finding]:
        section, batch = spec.training.ray, spec.training.batch_size
        findings = [*_address_findings(section), *_storage_findings(section)]
        if batch % section.workers:
            near = batch // section.workers * section.workers or section.workers
            message = f"batches of {batch} rows cannot be shared by {section.workers} workers"
            fix = f"set training.batch_size: {near} or {near + section.workers}, or another number of workers"
            findings.append(Finding("training.batch_over_workers", "error", f"{_PLACE}.workers", message, fix))
        if importlib.util.find_spec("ray") is None:
            message, fix = "the package ray is not installed", "pip install 'finetune-pipeline[ray]'"
            return [*findings, Finding("training.ray_missing", "error", "task.yaml: training.trainer", message, fix)]
        cluster = cluster_of(section)
        if not findings and cluster and not answers(cluster.address):
            message = f"no Ray cluster answers at {cluster.address}"
            fix = "start it (`finetune cluster up` starts one here), or correct training.ray.address"
            findings.append(Finding("training.ray_away", "error", f"{_PLACE}.address", message, fix))
        return findings

    def submit(self, order: TrainingOrder) -> str:
        """Adopt the job of this training, or submit a new attempt. Returns its name in the storage."""
        section = order.spec.training.ray
        name = job_name(order)
        place = Storage(storage_of(section)).below(name)
        if _collected(order).exists() or place.has_folder("result"):
            say("adapter: the Ray job has ended already; its result is collected")
            self._jobs[name] = _Job(None, None, place, order.work)
            return name
        cluster = cluster_of(section)
        if cluster is None:
            raise OutsideError("there is no Ray cluster; fix: `finetune cluster up`, or set training.ray.address")
        with _connected(cluster) as client:
            attempts = _attempts(client, name)
            running = [attempt for attempt, going in attempts.items() if going]
            if running:
                submission = f"{name}-{running[-1]}"
                say(f"adapter: going on with the Ray job {submission}")
            else:
                _bring_inputs(order, place)
                submission = f"{name}-{max(attempts, default=0) + 1}"
                _submit(client, submission, order.spec)
                say(f"adapter: submitted the Ray job {submission} to {cluster.address}")
        self._jobs[name] = _Job(cluster, submission, place, order.work)
        return name

    def poll(self, training: str) -> Literal["running", "ended"]:
        job = self._jobs[training]
        if job.cluster is None or job.submission is None:
            return "ended"
        for line in _new_lines(job):
            say(line)
            tell("adapter", line)
        try:
            with _connected(job.cluster) as client:
                info = _info(client, job.submission)
        except OutsideError as error:
            job.out_of_reach = job.out_of_reach or time.monotonic()
            if time.monotonic() - job.out_of_reach > _OUT_OF_REACH_SECONDS:
                raise
            say(f"adapter: {error}; waiting for it")
            return "running"
        job.out_of_reach = None
        return "ended" if info is None or info.status.is_terminal() else "running"

    def cancel(self, training: str) -> None:
        job = self._jobs[training]
        if job.cluster is None or job.submission is None:
            return
        try:
            with _connected(job.cluster) as client:
                client.stop_job(job.submission)
                limit = time.monotonic() + _STOP_SECONDS
                while (info := _info(client, job.submission)) and not info.status.is_terminal():
                    if time.monotonic() > limit:
                        say(f"adapter: the Ray job {job.submission} was told to stop, but has not ended yet")
                        return
                    time.sleep(0.2)
            say(f"adapter: stopped the Ray job {job.submission}; its checkpoint is kept")
        except OutsideError as error:
            say(f"adapter: the Ray job {job.submission} could not be stopped: {error}")

    def collect(self, training: str, order: TrainingOrder) -> dict[str, Any]:
        job, folder = self._jobs.pop(training), order.work / "collected"
        if not _collected(order).exists():
            if not job.place.has_folder("result"):
                raise _failure(job)
            shutil.rmtree(folder, ignore_errors=True)
            job.place.get("result", folder)
            write_json(_collected(order), {"job": job.submission})
        job.place.delete()  # rows of people must not be left where nobody looks
        shutil.copytree(folder, order.out, dirs_exist_ok=True)
        return dict(read_json(order.out / "result.json"))


def job_name(order: TrainingOrder) -> str:
    """What a training is recognised by: the task's name, and a digest of rows, base model and settings."""
    key = digest_json(
        {
            "settings": {k: v for k, v in decisive_settings(order.spec.training).items() if k != "trainer"},
            "train": digest_file(order.train),
            "validation": digest_file(order.validation),
            "base": record_digest(order.base),
        }
    )
    return f"{order.spec.name}-{key[:16]}"


def cluster_of(section: RaySection) -> Cluster | None:
    """The cluster that task.yaml names, or else the one that was started here."""
    return Cluster(section.address) if section.address else started_cluster(read_settings().home)


def storage_of(section: RaySection) -> str:
    """The address of the storage."""
    return section.storage or str(read_settings().home / "ray" / "storage")


def runtime_env(added: dict[str, Any]) -> dict[str, Any]:
    """Ray's runtime environment of a job: this package, for the driver and its workers, and what task.yaml adds."""
    variables = {
        **DEFAULTS,
        "HF_HUB_OFFLINE": "1",
        "FINETUNE_PARALLEL": read_settings().parallel,
        **added.get("env_vars", {}),
        **ENVIRONMENT,  # must stand before torch is imported, and Ray imports it before we can set them
    }
    modules = [str(Path(finetune_pipeline.__file__).parent), *added.get("py_modules", [])]
    excludes = ["__pycache__", *added.get("excludes", [])]
    return {**added, "env_vars": variables, "py_modules": modules, "excludes": excludes}


def _address_findings(section: RaySection) -> list[Finding]:
    address, place = section.address, f"{_PLACE}.address"
    if address is None:
        if started_cluster(read_settings().home):
            return []
        fix = "start one here with `finetune cluster up`, or write the address of one: http://HEAD:8265"
        return [Finding("training.ray_address", "error", place, "there is no Ray cluster to train on", fix)]
    parts = urlsplit(address)
    if parts.username or parts.password:
        fix = "leave it out, and set RAY_AUTH_MODE and RAY_AUTH_TOKEN in the environment"
        return [Finding("training.ray_address", "error", place, "the address holds a login", fix)]
    if parts.scheme not in ("http", "https") or not parts.hostname:
        message, fix = f"{address!r} is not the address of a dashboard", "write http://HEAD:8265"
        return [Finding("training.ray_address", "error", place, message, fix)]
    if parts.scheme == "http" and not is_local(address):
        message = f"what goes to {parts.hostname} travels in the clear, Ray's token too"
        fix = "use https, a port-forward (kubectl port-forward), or a network that you trust"
        return [Finding("training.ray_clear", "warning", place, message, fix)]
    return []


def _storage_findings(section: RaySection) -> list[Finding]:
    place = f"{_PLACE}.storage"
    if section.storage:
        return storage_findings("training.ray.storage", section.storage)
    if section.address and not is_local(section.address):
        message = "a cluster elsewhere cannot reach FINETUNE_HOME on this machine"
        fix = "name a shared folder or an fsspec URL (s3://bucket/folder) that both reach"
        return [Finding("training.storage", "error", place, message, fix)]
    return []


@contextlib.contextmanager
def _connected(cluster: Cluster) -> Iterator[JobSubmissionClient]:
    """A client of the cluster's job server; what goes wrong there becomes an OutsideError."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield cluster.client()
    except (ConnectionError, requests.RequestException) as error:
        raise OutsideError(f"the Ray cluster at {cluster.address} does not answer ({type(error).__name__})") from error
    except AuthenticationError as error:
        raise OutsideError(
            f"the Ray cluster at {cluster.address} does not know us; fix: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH, in the environment"
        ) from error
    except RuntimeError as error:
        if isinstance(error, OutsideError):
            raise
        raise OutsideError(f"the Ray cluster at {cluster.address} has a fault: {_last_line(error)}") from error


def _attempts(client: JobSubmissionClient, name: str) -> dict[int, bool]:
    """The attempts at a training that the cluster knows of, and whether each is still going."""
    attempts = {}
    for job in client.list_jobs():
        before, _, number = (job.submission_id or "").rpartition("-")
        if before == name and number.isdigit():
            attempts[int(number)] = not job.status.is_terminal()
    return dict(sorted(attempts.items()))


def _info(client: JobSubmissionClient, submission: str) -> Any:
    """What the cluster says of a job; None: it knows of none."""
    try:
        return client.get_job_info(submission)
    except RuntimeError as error:
        if "does not exist" in str(error):
            return None
        raise


def _submit(client: JobSubmissionClient, submission: str, spec: TaskSpec) -> None:
    """Submit, exactly once: whatever the answer is, the job counts as submitted if the cluster then knows it."""
    import requests

    section, limit = spec.training.ray, time.monotonic() + _AGENT_SECONDS
    name = submission.rpartition("-")[0]
    while True:
        try:
            client.submit_job(
                entrypoint=f"{ENTRYPOINT} {shlex.quote(storage_of(section))} {name}",
                submission_id=submission,
                runtime_env=runtime_env(section.runtime_env),
                metadata={"task": spec.name},
            )
            return
        except (RuntimeError, requests.RequestException) as error:
            if _info(client, submission) is not None:
                return
            if "No available agent" not in str(error) or time.monotonic() > limit:
                raise OutsideError(f"the Ray cluster does not take the job: {_last_line(error)}") from error
            time.sleep(1.0)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _bring_inputs(order: TrainingOrder, place: Storage) -> None:
    """Bring rows, base model and settings to the storage; a base model that is there already stays."""
    storage, model = Storage(storage_of(order.spec.training.ray)), model_folder(order.base)
    folder = f"bases/{record_digest(order.base)[:16]}"
    if not storage.has_folder(folder):
        say(f"adapter: bringing the base model to {storage.address}")
        storage.put_folder(model, folder, sorted(p for p in model.iterdir() if p.suffix in _BASE_FILES))
    place.put(order.train, "train.jsonl")
    place.put(order.validation, "validation.jsonl")
    record = read_json(order.base / MODEL_FILE) if (order.base / MODEL_FILE).exists() else None
    spec = order.spec.model_dump(mode="json", exclude={"training": {"ray": {"runtime_env"}}})
    place.write_json("job.json", {"spec": spec, "base": {"folder": folder, "record": record}})


def _new_lines(job: _Job) -> list[str]:
    """What the workers have said since the last look, those that took over from the start; their history is brought along
    into the work folder, as if the training ran here."""
    try:
        said = job.place.read_json("said.json") or {"worker": "", "lines": []}
        if said["lines"] and (said["worker"], len(said["lines"])) != (job.worker, job.lines):
            with contextlib.suppress(OutsideError):  # there is none before the first step
                job.place.get("history.jsonl", job.work / "history.jsonl")
    except OSError:  # the storage is out of reach for a moment
        return []
    if said["worker"] != job.worker:
        job.worker, job.lines = said["worker"], 0
    new: list[str] = said["lines"][job.lines :]
    job.lines += len(new)
    return new


def _collected(order: TrainingOrder) -> Path:
    """Written when the result is in the work folder: the storage may be emptied then."""
    return order.work / "collected.json"


def _failure(job: _Job) -> Exception:
    """The error for a job that ended without a result."""
    error = job.place.read_json("error.json")
    logs = f"look: ray job logs {job.submission}" + (f" --address {job.cluster.address}" if job.cluster else "")
    if error is None:
        return OutsideError(
            f"the Ray job {job.submission} ended without a result and without saying why; it may have been stopped, or the "
            f"cluster is short of memory\n{logs}\nfix: run again; it goes on from the last checkpoint"
        )
    message = f"the Ray job {job.submission} failed: {error['message']}"
    if error["code"] in NO_RETRY:
        return JobError(message)
    return OutsideError(f"{message}\n{logs}\nfix: run again; it goes on from the last checkpoint")
