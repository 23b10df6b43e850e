"""Trains at Together: LoRA on open weights. The adapter is downloaded, or served at a dedicated endpoint.

An endpoint costs money by the minute. It stops at the end of the block that uses it, at Together after a time without requests,
and through :func:`stop_orphaned_endpoints` if its process was killed: before an endpoint is created, its name is recorded in
a file, and its process holds a lock.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from finetune_pipeline.engine.files import hold, hold_if_free, sync_folder
from finetune_pipeline.faults import JobError, OutsideError
from finetune_pipeline.findings import Finding
from finetune_pipeline.models.hosted import HostedModel
from finetune_pipeline.reporting import say
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.trainers import TogetherSection
from finetune_pipeline.trainers.base import TrainingOrder, register
from finetune_pipeline.trainers.hosted import HostedTrainer
from finetune_pipeline.trainers.hosted_settings import low_rank_problems
from finetune_pipeline.trainers.service import Estimate, Refused, Unclear
from finetune_pipeline.trainers.together_service import ENDPOINT_PREFIX, TogetherService

_READY, _BROKEN = "DEPLOYMENT_STATE_READY", ("DEPLOYMENT_STATE_FAILED", "DEPLOYMENT_STATE_STOPPED")
_STOP_ATTEMPTS = 5
_PAUSE = 1.0
"""First pause in seconds between attempts to stop an endpoint; it doubles."""
_START_SECONDS = 3600.0
"""Longest time for a deployment to become ready."""


@register
class TogetherTrainer(HostedTrainer):
    """Uploads two files, gets the price, requests a job, and waits."""

    name = "together"
    where = "Together (`training.together`)"
    extra = "together"
    usual_key = "TOGETHER_API_KEY"
    estimates = True

    def returned(self, spec: TaskSpec) -> Literal["weights", "endpoint"]:
        return spec.training.together.returns

    def problems(self, spec: TaskSpec) -> list[Finding]:
        section, findings = spec.training.together, low_rank_problems(self, spec, chooses_layers=True)
        if spec.training.scheduler == "constant_with_warmup":
            message = "Together knows the schedules linear and cosine"
            findings.append(self.finding("scheduler", "training.scheduler", message, "write one of them"))
        if section.returns == "endpoint":
            if not (section.project or os.environ.get("TOGETHER_PROJECT_ID")):
                fix = "write the project's id, or set TOGETHER_PROJECT_ID"
                findings.append(self.finding("project", "project", "an endpoint needs a project that pays", fix))
            if not section.hardware_config:
                message = "an endpoint needs the hardware it runs on"
                fix = "write a config revision, projects/…/configs/…, of Together's list for this model"
                findings.append(self.finding("hardware", "hardware_config", message, fix))
        return findings

    def hosting(self, spec: TaskSpec) -> Estimate:
        section = spec.training.together
        if section.returns != "endpoint":
            return super().hosting(spec)
        if section.endpoint_usd_per_hour is None:
            key = "training.together.endpoint_usd_per_hour"
            return Estimate(None, f"the price of the dedicated endpoint is unknown ({key})")
        minutes, rate = section.inactive_minutes, section.endpoint_usd_per_hour
        return Estimate(rate * minutes / 60, f"at least {minutes} minutes at ${rate:g} an hour")

    def connect(self, spec: TaskSpec) -> TogetherService:
        return TogetherService(self, spec)

    def submit(self, order: TrainingOrder) -> str:
        job = super().submit(order)
        if self.returned(order.spec) == "endpoint":
            stop_orphaned_endpoints(self.connect(order.spec), order.home)
        return job

    @contextlib.contextmanager
    def serving(self, spec: TaskSpec, hosted: HostedModel, home: Path) -> Iterator[HostedModel]:
        with running_endpoint(self.connect(spec), spec.training.together, hosted, home) as running:
            yield running


@contextlib.contextmanager
def running_endpoint(
    service: TogetherService, section: TogetherSection, hosted: HostedModel, home: Path
) -> Iterator[HostedModel]:
    """Start the endpoint of a trained model, wait until it answers, and stop it in any case. Raises JobError if it cannot be
    started. home: folder of the record of running endpoints."""
    project, _, name = hosted.model.rpartition("/")
    folder = home / "jobs" / "endpoints"
    folder.mkdir(parents=True, exist_ok=True)
    stop_orphaned_endpoints(service, home)
    record = folder / name
    with hold(_lock_of(record)):
        if record.exists():  # its process was killed while this one waited
            _stop(service, name)
        record.touch()
        sync_folder(folder)  # recorded before it costs anything
        try:
            yield replace(hosted, model=_start(service, section, project, name))
        finally:
            _stop(service, name)
            record.unlink(missing_ok=True)


def _lock_of(record: Path) -> Path:
    """Return the lock file of a record. Unlike the record it stays, so that all processes lock the same file."""
    return record.parents[1] / ".locks" / record.name


def stop_orphaned_endpoints(service: TogetherService, home: Path) -> None:
    """Stop endpoints whose process no longer runs."""
    for record in sorted((home / "jobs" / "endpoints").glob("*")):
        with hold_if_free(_lock_of(record)) as free:
            if not free or not record.exists():
                continue  # another process uses it, or has stopped it
            _stop(service, record.name)
            record.unlink(missing_ok=True)
            say(f"the endpoint {record.name} at {service.place} had been left running, and was stopped")


def _start(service: TogetherService, section: TogetherSection, project: str, name: str) -> str:
    """Create an endpoint and a deployment, and route requests to it once it is ready. Returns the model name for requests."""
    endpoints, job = service.client.endpoints, name.removeprefix(ENDPOINT_PREFIX)
    with service.request(f"tell what {job} made"):
        training: Any = service.client.fine_tuning.retrieve(job)
        model = training.adapter_object_id
        if not model:
            raise JobError(f"{service.place} has no weights of {job} to deploy", "check the job there")
    with service.request("create an endpoint"):
        endpoint = endpoints.create(name=name)
    with service.request("deploy the model"):
        deployment = endpoints.deployments.create(
            endpoint.id,
            name="main",
            model=f"projects/{project}/models/{model}",
            config=str(section.hardware_config),
            autoscaling={"min_replicas": 1, "max_replicas": 1},
            inactive_timeout=section.inactive_minutes,
        )
    deadline = time.monotonic() + _START_SECONDS
    while (state := _state(service, endpoint.id, deployment.id)) != _READY:
        if state in _BROKEN or time.monotonic() > deadline:
            problem = f"the deployment of {name} at {service.place} is not becoming ready: {state}"
            raise JobError(problem, "check it there")
        time.sleep(section.poll_seconds)
    with service.request("route requests to the deployment"):
        routed = endpoints.update(endpoint.id, traffic_split=[{"deployment_id": deployment.id, "weight": 1.0}])
        return str(routed.name)


def _state(service: TogetherService, endpoint: str, deployment: str) -> str:
    """Return the state of a deployment; "unknown" if the service gives no clear answer."""
    try:
        with service.request("tell the state of the deployment"):
            return str(service.client.endpoints.deployments.retrieve(deployment, endpoint_id=endpoint).status.state)
    except Unclear:
        return "unknown"


def _stop(service: TogetherService, name: str) -> None:
    """Stop every deployment of the endpoint and delete it. After several retries, raises OutsideError with what to do by hand."""
    for attempt in range(_STOP_ATTEMPTS):
        try:
            with service.request(f"stop the endpoint {name}"):
                for endpoint in service.client.endpoints.list():
                    if endpoint.name.rpartition("/")[2] != name:
                        continue
                    for deployment in endpoint.deployments:
                        service.client.endpoints.deployments.update(
                            deployment.id, endpoint_id=endpoint.id, autoscaling={"min_replicas": 0, "max_replicas": 0}
                        )
                        service.client.endpoints.deployments.delete(deployment.id, endpoint_id=endpoint.id)
                    service.client.endpoints.delete(endpoint.id)
            return
        except (Unclear, Refused) as failure:
            error = failure
            time.sleep(_PAUSE * 2**attempt)
    raise OutsideError(f"the endpoint {name} at {service.place} may still run and cost money: stop it there\n{error}")
