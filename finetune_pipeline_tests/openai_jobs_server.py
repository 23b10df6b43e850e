"""Fake server of OpenAI's fine-tuning API and its Nebius variant: files, jobs, events, checkpoints, models.

Requests and answers are validated with the SDK's types, so that the server cannot drift from the published protocol.
"""

import functools
import re
import time
import typing
from typing import Any

import typing_extensions
from openai.types import FileObject, Model
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent, JobCreateParams
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from pydantic import ConfigDict, TypeAdapter, ValidationError

from finetune_pipeline_tests.service_server import KEY, Reply, Request, ServiceServer, refusal

STATES = ("validating_files", "queued", "running", "running", "succeeded")
ENDED = ("succeeded", "failed", "cancelled")


@functools.cache
def create_params() -> TypeAdapter[Any]:
    """Strict validator of job requests from the SDK's type: no unknown keys, no type coercion."""
    seen: set[Any] = set()

    def make_strict(annotation: Any) -> None:
        if typing_extensions.is_typeddict(annotation) and annotation not in seen:
            seen.add(annotation)
            annotation.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)
            for hint in typing_extensions.get_type_hints(annotation).values():
                make_strict(hint)
        for argument in typing.get_args(annotation):
            make_strict(argument)

    make_strict(JobCreateParams)
    return TypeAdapter(JobCreateParams)


class OpenAiJobsServer(ServiceServer):
    """A job advances by one state each time it is retrieved.

    Attributes:
        states: The states of a job, in order.
        nebius: Speak the Nebius variant: top-level hyperparameters, and weight files in the checkpoints.
        adapter: Adapter files by name; each checkpoint gets its own copy.
        models: Available models with their shutdown dates.
        keeps_metadata: Whether listing jobs filters by metadata.
        losses: (training loss, validation loss) per step, reported when the job has succeeded.
    """

    def __init__(self, nebius: bool = False) -> None:
        super().__init__()
        self.nebius, self.states = nebius, STATES
        self.adapter: dict[str, bytes] = {}
        self.models: dict[str, str | None] = {"gpt-4.1-mini-2025-04-14": None, "org/tiny": None}
        self.keeps_metadata = True
        self.losses = [(2.0, 1.9), (1.2, 1.1), (0.9, 1.3)]
        self.files: dict[str, tuple[str, bytes]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.polls: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"{self.address}/v1"

    def answer(self, request: Request) -> Reply:
        path = request.path.removeprefix("/v1")
        if (request.method, path) == ("POST", "/files"):
            return self._upload_file(request)
        if match := re.fullmatch(r"/files/([^/]+)(/content)?", path):
            if match[1] not in self.files:
                return refusal(404, "no such file")
            name, data = self.files[match[1]]
            return Reply(data) if match[2] else Reply(self._file(match[1], name, data))
        if match := re.fullmatch(r"/models/(.+)", path):
            if match[1] not in self.models:
                return refusal(404, f"The model '{match[1]}' does not exist")
            content = {
                "id": match[1],
                "object": "model",
                "created": 1,
                "owned_by": "x",
                "shutdown_date": self.models[match[1]],
            }
            return Reply(Model.model_validate(content).model_dump())
        if (request.method, path) == ("POST", "/fine_tuning/jobs"):
            return self._create(request)
        if path == "/fine_tuning/jobs":
            return self._list(request)
        if match := re.fullmatch(r"/fine_tuning/jobs/([^/]+)(/events|/checkpoints|/cancel)?", path):
            return self._job_route(self.jobs.get(match[1]), match[2])
        return refusal(404, f"no route {request.method} {path}")

    def _file(self, file_id: str, name: str, data: bytes) -> dict[str, Any]:
        content = dict(
            id=file_id, object="file", bytes=len(data), created_at=1, filename=name, purpose="fine-tune", status="processed"
        )  # fmt: skip
        return FileObject.model_validate(content).model_dump()

    def _upload_file(self, request: Request) -> Reply:
        part = re.search(rb'name="file"; filename="([^"]+)".*?\r\n\r\n(.*?)\r\n--', request.body, re.S)
        if part is None or b"fine-tune" not in request.body:
            return refusal(400, "a file and its purpose are needed")
        return Reply(self._file(self.add_file(part[1].decode(), part[2]), part[1].decode(), part[2]))

    def add_file(self, name: str, data: bytes) -> str:
        file_id = f"file-{len(self.files) + 1}"
        self.files[file_id] = (name, data)
        return file_id

    def _create(self, request: Request) -> Reply:
        body = request.json()
        openai_body = dict(body)
        if self.nebius:
            hyperparameters = openai_body.pop("hyperparameters", {})
            if not 0 < hyperparameters.get("learning_rate_multiplier", 0) < 0.1:
                return refusal(422, "learning_rate_multiplier is an absolute learning rate below 0.1")
        try:
            create_params().validate_python(openai_body)
        except ValidationError as error:
            return refusal(422, str(error))
        if body["training_file"] not in self.files:
            return refusal(400, "no such training file")
        content = dict(
            id=f"ftjob-{len(self.jobs) + 1}", object="fine_tuning.job", created_at=int(time.time()), error=None,
            fine_tuned_model=None, finished_at=None, hyperparameters={}, model=body["model"], organization_id="org-1",
            result_files=[], seed=body.get("seed", 0), status=self.states[0], trained_tokens=None,
            training_file=body["training_file"], validation_file=body.get("validation_file"), metadata=body.get("metadata"),
            method=body.get("method"),
        )  # fmt: skip
        self.jobs[content["id"]] = content
        return Reply(self._validated(content))

    def _validated(self, job: dict[str, Any]) -> dict[str, Any]:
        if job["status"] in (*ENDED, "validating_files", "queued", "running"):
            FineTuningJob.model_validate(job)
        return job

    def _list(self, request: Request) -> Reply:
        metadata = {key[9:-1]: values[0] for key, values in request.query.items() if key.startswith("metadata[")}
        jobs = [
            job
            for job in reversed(self.jobs.values())
            if not self.keeps_metadata or metadata.items() <= (job["metadata"] or {}).items()
        ]
        after = request.query.get("after", [None])[0]
        if after is not None:
            jobs = jobs[[job["id"] for job in jobs].index(after) + 1 :]
        page = jobs[:3]  # a server may return fewer than the limit
        return Reply({"object": "list", "data": page, "has_more": len(jobs) > len(page)})

    def _job_route(self, job: dict[str, Any] | None, route: str | None) -> Reply:
        if job is None:
            return refusal(404, "no such job")
        if route == "/cancel":
            if job["status"] in ENDED:
                return refusal(400, f"the job is {job['status']}")
            job["status"], job["trained_tokens"] = "cancelled", 120
            return Reply(self._validated(job))
        if route == "/events":
            return Reply({"object": "list", "data": self._events(job), "has_more": False})
        if route == "/checkpoints":
            return Reply({"object": "list", "data": self._checkpoints(job), "has_more": False})
        self._advance(job)
        return Reply(self._validated(job))

    def _advance(self, job: dict[str, Any]) -> None:
        if job["status"] in ENDED:
            return
        polls = self.polls[job["id"]] = self.polls.get(job["id"], 0) + 1
        job["status"] = self.states[min(polls, len(self.states) - 1)]
        if job["status"] == "succeeded":
            job |= {"fine_tuned_model": f"ft:{job['model']}:acme::{job['id']}", "trained_tokens": 4321}
        if job["status"] == "failed":
            error = {"code": "invalid_training_file", "param": "training_file", "message": "line 3 has no answer"}
            job["error"] = error

    def _events(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        content = [dict(id="e1", message=f"Created fine-tuning job\x1b[2J for {KEY}", type="message", data=None)]
        if job["status"] == "succeeded":
            for step, (loss, _) in enumerate(self.losses, 1):
                data = {"step": step, "train_loss": loss, "total_steps": len(self.losses)}
                content.append(dict(id=f"m{step}", message=f"Step {step}", type="metrics", data=data))
        events = [
            {"object": "fine_tuning.job.event", "level": "info", "created_at": i, **e} for i, e in enumerate(content)
        ]
        for event in events:
            FineTuningJobEvent.model_validate(event)
        return events[::-1]

    def _checkpoints(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        if job["status"] != "succeeded":
            return []
        checkpoints = []
        for step, (_, loss) in enumerate(self.losses, 1):
            checkpoint: dict[str, Any] = dict(
                id=f"c{step}", object="fine_tuning.job.checkpoint", created_at=step, step_number=step,
                fine_tuning_job_id=job["id"], fine_tuned_model_checkpoint=f"{job['fine_tuned_model']}:{step}",
                metrics={"step": step, "full_valid_loss": loss},
            )  # fmt: skip
            FineTuningJobCheckpoint.model_validate(checkpoint)
            if self.nebius:
                checkpoint["result_files"] = [
                    self.add_file(f"checkpoint-{step}/{name}", data) for name, data in self.adapter.items()
                ]
            checkpoints.append(checkpoint)
        return checkpoints
