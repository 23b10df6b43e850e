"""Services of OpenAI's fine-tuning protocol, through OpenAI's SDK, and the differences between their dialects.

The same fields have different meanings, above all the learning rate: ``learning_rate_multiplier`` is a factor at OpenAI and an
absolute rate at Nebius. One value for both would be wrong by orders of magnitude.
"""

import contextlib
import datetime
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from finetune_pipeline.faults import JobError
from finetune_pipeline.findings import Finding
from finetune_pipeline.models.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.trainers.chat_file import FileRules
from finetune_pipeline.trainers.hosted import HostedTrainer
from finetune_pipeline.trainers.hosted_settings import low_rank
from finetune_pipeline.trainers.service import Files, Job, JobLog, JobState, Refused, Service, Unclear
from finetune_pipeline.training.history import LoggedLoss

INSTEAD = "train open weights: profile: nebius, trainer: together, or trainer: local"
_NAME = "finetune_job"
"""Metadata key with the job's name in the ledger."""
_PAGE = 100
_STATES: dict[str, JobState] = {
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
    "canceled": "cancelled",
}
_SOON = datetime.timedelta(days=90)


@dataclass(frozen=True)
class Profile:
    """One dialect of the protocol.

    Attributes:
        label: The service's name, in messages and in the price list.
        base_url: Its URL; None: the spec must give one.
        key: Usual environment variable with the API key.
        rate: The meaning of ``learning_rate_multiplier``; None: the spec must set it.
        top_level: Whether hyperparameters, including LoRA's, are fields of the request, not of its method.
        tunable: Base models that can be tuned, without the date in their names; None: unknown.
        deploys: Whether a tuned model must be deployed before it answers.
        no_jobs_from, models_end: First day without new jobs, and last day of tuned models, if announced.
    """

    label: str
    base_url: str | None
    key: str
    rate: Literal["factor", "absolute"] | None
    top_level: bool = False
    returns: Literal["weights", "endpoint"] = "endpoint"
    tunable: tuple[str, ...] | None = None
    deploys: bool = False
    no_jobs_from: datetime.date | None = None
    models_end: datetime.date | None = None


PROFILES = {
    "openai": Profile(
        "OpenAI",
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        "factor",
        tunable=("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini"),
        no_jobs_from=datetime.date(2027, 1, 6),
        models_end=datetime.date(2027, 1, 14),
    ),
    "azure": Profile("Azure", None, "AZURE_OPENAI_API_KEY", "factor", deploys=True),
    "nebius": Profile(
        "Nebius",
        "https://api.tokenfactory.nebius.com/v1/",
        "NEBIUS_API_KEY",
        "absolute",
        top_level=True,
        returns="weights",
    ),
    "other": Profile("the server", None, "OPENAI_API_KEY", None),
}


def end_findings(
    trainer: HostedTrainer, profile: Profile, models_end: datetime.date | None, today: datetime.date
) -> list[Finding]:
    """Return a finding about an announced end of a service or model: an error after it, a warning in the months before."""
    if profile.no_jobs_from is not None and today >= profile.no_jobs_from:
        message = f"{profile.label} has accepted no new fine-tuning jobs since {profile.no_jobs_from}"
        return [trainer.finding("ended", "profile", message, INSTEAD)]
    if models_end is None or models_end - today > _SOON:
        return []
    if today >= models_end:
        message = f"{profile.label} shut down this model and models tuned from it on {models_end}"
        return [trainer.finding("ended", "model", message, INSTEAD)]
    message = (
        f"{profile.label} shuts down this model and models tuned from it on {models_end}: the result lasts only weeks"
    )
    return [trainer.finding("ends_soon", "model", message, INSTEAD, "warning")]


class OpenAiService(Service):
    """A service of the protocol. The SDK must not repeat requests: a repeated order is a second job."""

    def __init__(self, trainer: HostedTrainer, spec: TaskSpec, profile: Profile) -> None:
        super().__init__(trainer, spec, profile.label, str(profile.base_url))
        self.profile = profile
        import openai

        omitted = dict.fromkeys(("OpenAI-Organization", "OpenAI-Project"), openai.omit)
        headers: dict[str, object] = {"Connection": "close", **omitted}
        self.client: openai.OpenAI = self.open_client(openai.OpenAI, openai.DefaultHttpxClient, default_headers=headers)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        training, lora = self.training, low_rank(self.training)
        values: dict[str, object] = {"n_epochs": self.epochs, "batch_size": training.batch_size}
        factor = training.openai.learning_rate_multiplier or "auto"
        values["learning_rate_multiplier"] = training.learning_rate if self.profile.rate == "absolute" else factor
        if self.profile.top_level:
            values |= {"lora": True, "lora_r": lora.r, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
            values |= {"warmup_ratio": training.warmup_share, "weight_decay": training.weight_decay}
        return {**values, "seed": training.seed}

    def findings(self) -> list[Finding]:
        today = datetime.datetime.now(datetime.UTC).date()
        model: Any = None
        try:
            with self.request(f"say what {self.model!r} is"):
                model = self.client.models.retrieve(self.model)
        except Refused as refusal:
            if refusal.status != 404:
                raise
            with contextlib.suppress(Refused), self.request("list its models"):  # some servers only have the list
                model = next((m for m in self.client.models.list() if m.id == self.model), None)
        if model is None:
            message = f"{self.place} does not offer {self.model!r}"
            return [self.trainer.finding("not_offered", "model", message, "choose one from its list of models")]
        end = _end_of(model)
        return end_findings(self.trainer, replace(self.profile, no_jobs_from=None), end, today)

    def file_rules(self) -> FileRules:
        if self.profile.top_level:
            return FileRules(self.label, 1, 5 << 30)
        return FileRules(self.label, 10, 512 << 20, most_tokens=65_536)

    def upload(self, path: Path) -> str:
        with self.request(f"take the file {path.name}"), path.open("rb") as file:
            return str(self.client.files.create(file=(path.name, file), purpose="fine-tune").id)

    def buy(self, name: str, files: Files) -> Job:
        values = self.hyperparameters
        seed, extra = values.pop("seed"), {"hyperparameters": values}
        if not self.profile.top_level:
            extra = {"method": {"type": "supervised", "supervised": extra}}
        with self.request("train"):
            bought = self.client.fine_tuning.jobs.create(
                model=self.model,
                training_file=files.train,
                validation_file=files.validation,
                seed=seed,
                suffix=name,
                metadata={_NAME: name},
                extra_body=extra,
            )
            return _job(bought)

    def jobs_named(self, name: str) -> list[Job]:
        with self.request("list its jobs"):
            listed, is_whole = _items(self.client.fine_tuning.jobs.list(limit=_PAGE, metadata={_NAME: name}))
            # servers may ignore the filter, or keep only the suffix
            jobs = [job for job in listed if name in (_of(job.metadata, _NAME), getattr(job, "suffix", None))]
            if not jobs and not is_whole:
                problem = f"{self.place} lists the same {len(listed)} jobs again and again, and may have a job {name}"
                raise Unclear(problem, "delete jobs there until one page lists all of them, or train elsewhere")
            return [_job(job) for job in sorted(jobs, key=lambda job: job.created_at or 0)]

    def job(self, job: str) -> Job:
        with self.request(f"tell the state of {job}"):
            return _job(self.client.fine_tuning.jobs.retrieve(job))

    def cancel(self, job: str) -> None:
        with self.request(f"cancel {job}"):
            self.client.fine_tuning.jobs.cancel(job)

    def log(self, job: str) -> JobLog:
        with self.request(f"tell how far {job} is"):
            events, losses = dict[str, str](), dict[tuple[int, str], float]()
            listed = self._listed(self.client.fine_tuning.jobs.list_events, job)
            for event in sorted(listed, key=lambda event: event.created_at or 0):
                data = event.data
                if event.type != "metrics":
                    events[event.id] = str(event.message)
                elif isinstance(_of(data, "step"), int):
                    _add(losses, data["step"], data)
            for checkpoint in self._checkpoints(job):
                _add(losses, checkpoint.step_number, _metrics(checkpoint))
            by_step = sorted(losses.items(), key=lambda entry: (entry[0][0], entry[0][1] != "loss"))
            return JobLog(events, [LoggedLoss(step=step, **{name: loss}) for (step, name), loss in by_step])

    def _checkpoints(self, job: str) -> list[Any]:
        listed = self._listed(self.client.fine_tuning.jobs.checkpoints.list, job)
        return [checkpoint for checkpoint in listed if isinstance(checkpoint.step_number, int)]

    def _listed(self, request: Callable[..., Any], job: str) -> list[Any]:
        """Return the checkpoints or events of a job; none if the server does not list them."""
        from openai import NotFoundError

        with contextlib.suppress(NotFoundError):
            return _items(request(job, limit=_PAGE))[0]
        return []

    def download(self, job: str, folder: Path) -> int | None:
        with self.request(f"give the adapter of {job}"):
            checkpoints = self._checkpoints(job)
            if not checkpoints:
                raise JobError(f"{self.place} has no checkpoint of {job}", "check the job there")
            best = min(checkpoints, key=_rank)
            for file in list(getattr(best, "result_files", None) or []):
                name = Path(str(self.client.files.retrieve(file).filename)).name
                if name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):  # ignore any other files
                    with self.client.files.with_streaming_response.content(file) as answer:
                        answer.stream_to_file(folder / name)
            return int(best.step_number)

    def endpoint(self, job: Job) -> tuple[str, str]:
        deployment = self.training.openai.deployment
        if self.profile.deploys and not deployment:
            raise JobError(
                f"the job {job.id} has made the model {job.model}, which answers only once it is deployed",
                f"deploy it at {self.profile.label} (a deployment costs by the hour), write its name as "
                "training.openai.deployment, and run again: the job is found, not bought again",
            )
        if not (model := deployment or job.model):
            fix = "check the job there, and run again: nothing is bought again"
            raise JobError(f"the job {job.id} at {self.place} is {job.word}, and names no model", fix)
        return self.url, model


def _items(first: Any) -> tuple[list[Any], bool]:
    """Return the items of all pages of a list, each once, and whether these are all. Some servers repeat a page."""
    items: dict[str, object] = {}
    for page in first.iter_pages():
        known = len(items)
        items |= {item.id: item for item in page.data or []}
        if page.data and len(items) == known:
            return list(items.values()), not page.has_more and len(page.data) < _PAGE
    return list(items.values()), True


def _of(values: Any, key: str) -> Any:
    """Return a value of a server's object, which may be anything."""
    return values.get(key) if isinstance(values, dict) else None


def _metrics(checkpoint: Any) -> dict[str, object]:
    """Return the metrics of a checkpoint; empty if the server reports none."""
    return checkpoint.metrics.model_dump() if checkpoint.metrics else {}


def _job(job: Any) -> Job:
    """Convert a job of the SDK, which validates nothing. Raises AttributeError or TypeError for an invalid one."""
    if not isinstance(job.id, str) or not job.id:
        raise TypeError("a job without an id")
    state, reason = _STATES.get(str(job.status).lower(), "running"), getattr(job.error, "message", None) or ""
    return Job(job.id, state, str(job.status), job.fine_tuned_model or "", reason, job.trained_tokens)


def _end_of(model: Any) -> datetime.date | None:
    """Return the shutdown date of a model: OpenAI's shutdown_date, or Azure's deprecation of fine-tuning (a timestamp). None if
    the server names none, or something else."""
    moment = _of(getattr(model, "deprecation", None), "fine_tune")
    with contextlib.suppress(ValueError, OverflowError, OSError):
        if isinstance(date := getattr(model, "shutdown_date", None), str):
            return datetime.date.fromisoformat(date[:10])
        if isinstance(moment, int):
            return datetime.datetime.fromtimestamp(moment, datetime.UTC).date()
    return None


def _add(losses: dict[tuple[int, str], float], step: int, values: dict[str, Any]) -> None:
    """Record the losses of a step, preferring the validation loss of the full split."""
    for name, keys in {"loss": ("train_loss",), "eval_loss": ("full_valid_loss", "valid_loss")}.items():
        value = next((values[key] for key in keys if isinstance(values.get(key), int | float)), None)
        if value is not None:
            losses[step, name] = float(value)


def _rank(checkpoint: Any) -> tuple[float, int]:
    """Sort key: lowest validation loss first; without losses, the last step first."""
    losses, step = dict[tuple[int, str], float](), int(checkpoint.step_number)
    _add(losses, step, _metrics(checkpoint))
    return losses.get((step, "eval_loss"), float("inf")), -step
