"""Trains on a Ray cluster: one Ray job per training or second stage, named after its rows, base model and settings."""

import importlib.util
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from finetune_pipeline.engine.files import digest_file, digest_json, read_json
from finetune_pipeline.findings import Finding, FindingsError, errors
from finetune_pipeline.jobs import RefineJob
from finetune_pipeline.models.identity import model_folder, record_digest
from finetune_pipeline.models.model_files import ADAPTER_WEIGHTS, MODEL_FILE, text_files, weight_files
from finetune_pipeline.reporting import say
from finetune_pipeline.spec.baseline import is_local
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.trainers import RaySection
from finetune_pipeline.spec.training import decisive_settings
from finetune_pipeline.trainers.base import Trainer, TrainingOrder, register
from finetune_pipeline.trainers.ray_cluster import answers, finds_clusters, is_platform
from finetune_pipeline.trainers.ray_jobs import POLL_SECONDS, RayJob, storage_of
from finetune_pipeline.trainers.storage import Storage, storage_findings
from finetune_pipeline.training.facts import LocalTraining

_PLACE = "task.yaml: training.ray"
ROWS, FIRST_STAGE = "preferences.jsonl", "first/adapter"
"""Of a second stage: the rows, and the adapter of the first stage, in the storage and on the workers."""


@register
class RayTrainer(Trainer):
    """Submits jobs to the cluster, and transfers inputs and results through the storage."""

    name = "ray"
    where = "the Ray cluster of `training.ray`"
    poll_seconds = POLL_SECONDS
    job: RayJob

    def preflight(self, spec: TaskSpec) -> list[Finding]:
        section = spec.training.ray
        return [*cluster_findings(section), *uneven_batches(spec.training.batch_size, section.workers)]

    def submit(self, order: TrainingOrder) -> str:
        """Find the job of this training, or submit a new attempt. Returns its name in the storage."""
        name = job_name(order)
        self.job = RayJob(name, order.spec.training.ray, "adapter", order.work)
        self.job.begin(lambda place: _bring_inputs(order, place))
        return name

    def poll(self, training: str) -> Literal["running", "ended"]:
        return "ended" if self.job.has_ended() else "running"

    def cancel(self, training: str) -> None:
        self.job.stop()

    def collect(self, training: str, order: TrainingOrder) -> LocalTraining:
        self.job.collect(order.out)
        return LocalTraining.read(order.out / "result.json")


def job_name(order: TrainingOrder) -> str:
    """Return the name of a training job: the task's name, and a digest of rows, base model and settings."""
    settings = {k: v for k, v in decisive_settings(order.spec.training).items() if k != "trainer"}
    rows = {"train": digest_file(order.train), "validation": digest_file(order.validation)}
    key = digest_json({"settings": settings, **rows, "base": record_digest(order.base)})
    return f"{order.spec.name}-{key[:16]}"


def refine_on_ray(job: RefineJob, spec: TaskSpec) -> dict[str, object]:
    """Train the second stage on the cluster of `training.ray`, with one worker: KTO compares the rows of a pass. Returns its
    facts."""
    section = spec.training.ray
    if blocking := errors(cluster_findings(section)):
        raise FindingsError(blocking)
    start = digest_file(job.start_from / ADAPTER_WEIGHTS)
    sections = {"settings": decisive_settings(job.settings), "refine": job.refine.model_dump()}
    key = [*sections.values(), digest_file(job.rows), record_digest(job.base), start]

    def bring_inputs(place: Storage) -> None:
        place.put(job.rows, ROWS)
        place.put_folder(job.start_from, f"trained/{FIRST_STAGE}")
        base = _bring_base(job.base, section, job.stage)
        place.write_json("job.json", {"action": "refine", "spec": _sent(spec), "base": base, **sections})

    name = f"{spec.name}-refine-{digest_json(key)[:16]}"
    RayJob(name, section, job.stage, job.work).run(bring_inputs, job.out)
    return dict(read_json(job.out / "result.json"))


def uneven_batches(batch_size: int, workers: int) -> list[Finding]:
    """Return a finding if the workers cannot share batches evenly."""
    if batch_size % workers == 0:
        return []
    near = batch_size // workers * workers or workers
    message = f"batches of {batch_size} rows cannot be split over {workers} workers"
    fix = f"set training.batch_size: {near} or {near + workers}, or another number of workers"
    return [Finding("training.batch_over_workers", "error", f"{_PLACE}.workers", message, fix)]


def cluster_findings(section: RaySection) -> list[Finding]:
    """Return findings about the cluster and the storage of `training.ray`."""
    findings = [*_address_findings(section), *_storage_findings(section)]
    if importlib.util.find_spec("ray") is None:
        message, fix = "the package ray is not installed", "pip install 'finetune-pipeline[ray]'"
        return [*findings, Finding("training.ray_missing", "error", "task.yaml: training.trainer", message, fix)]
    findings += _environment_findings(section)
    if not any(f.severity == "error" for f in findings) and not answers(section.address):
        message = f"no Ray cluster answers at {section.address}"
        fix = "start it (`ray start --head` starts one here, see `finetune docs training`), or correct training.ray.address"
        findings.append(Finding("training.ray_away", "error", f"{_PLACE}.address", message, fix))
    return findings


def _environment_findings(section: RaySection) -> list[Finding]:
    if not section.runtime_env:
        return []
    from ray.runtime_env import RuntimeEnv

    try:
        RuntimeEnv(**section.runtime_env)
    except (TypeError, ValueError) as error:
        fix = "write it as Ray's documentation of runtime environments says"
        return [Finding("training.ray_environment", "error", f"{_PLACE}.runtime_env", f"Ray refuses it: {error}", fix)]
    return []


def _address_findings(section: RaySection) -> list[Finding]:
    address, place = section.address, f"{_PLACE}.address"
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError as error:
        message, fix = f"the address is no URL: {error}", "write http://HEAD:8265"
        return [Finding("training.ray_address", "error", place, message, fix)]
    if parts.username or parts.password:
        message = "the address contains credentials"
        fix = "remove them, and set RAY_AUTH_MODE and RAY_AUTH_TOKEN in the environment"
    elif is_platform(address):
        if finds_clusters(parts.scheme):
            return []
        message = f"no package {parts.scheme} is installed that finds Ray clusters"
        fix = "install it (anyscale:// needs `pip install anyscale`), or write http://HEAD:8265"
    elif parts.scheme not in ("http", "https") or not parts.hostname:
        message, fix = f"{address!r} is not the address of a dashboard", "write http://HEAD:8265, or PLATFORM://CLUSTER"
    elif parts.scheme == "http" and not is_local(address):
        message = f"traffic to {parts.hostname} is unencrypted, including Ray's token"
        fix = "use https, a port-forward (kubectl port-forward), or a network that you trust"
        return [Finding("training.ray_clear", "warning", place, message, fix)]
    else:
        return []
    return [Finding("training.ray_address", "error", place, message, fix)]


def _storage_findings(section: RaySection) -> list[Finding]:
    place = f"{_PLACE}.storage"
    if section.storage:
        return storage_findings("training.ray.storage", section.storage)
    if not is_local(section.address):
        message = "a cluster elsewhere cannot reach FINETUNE_HOME on this machine"
        fix = "give a shared folder or an fsspec URL (s3://bucket/folder) that both can reach"
        return [Finding("training.storage", "error", place, message, fix)]
    return []


def _bring_base(base: Path, section: RaySection, stage: str) -> dict[str, object]:
    """Upload the base model to the storage if it is not there yet. Returns where it is, and its record."""
    storage, model = Storage(storage_of(section)), model_folder(base)
    folder = f"bases/{record_digest(base)[:16]}"
    if not storage.has_folder(folder):
        say(f"{stage}: bringing the base model to {storage.address}")
        storage.put_folder(model, folder, [*weight_files(model), *text_files(model)])
    return {"folder": folder, "record": read_json(base / MODEL_FILE) if (base / MODEL_FILE).exists() else None}


def _sent(spec: TaskSpec) -> dict[str, object]:
    """Return the spec as a job gets it, without what the cluster's environment has."""
    return spec.model_dump(mode="json", exclude={"training": {"ray": {"runtime_env"}}})


def _bring_inputs(order: TrainingOrder, place: Storage) -> None:
    """Upload rows and settings to the storage, and the base model if it is not there yet."""
    base = _bring_base(order.base, order.spec.training.ray, "adapter")
    place.put(order.train, "train.jsonl")
    place.put(order.validation, "validation.jsonl")
    place.write_json("job.json", {"action": "train", "spec": _sent(order.spec), "base": base})
