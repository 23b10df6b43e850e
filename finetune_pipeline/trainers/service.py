"""Interface to a training service: jobs with normalised states, and the meaning of failures.

A request succeeds, is refused (:class:`Refused`), or has an unclear result (:class:`Unclear`): a timeout, a broken connection,
an overloaded server, or a reply outside the protocol. After an unclear request for a job, the job may exist and cost money.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from finetune_pipeline.faults import CLIENT_FIX, JobError, OutsideError
from finetune_pipeline.findings import Finding
from finetune_pipeline.planning.tokens import whole_epochs
from finetune_pipeline.spec.baseline import is_local
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.trainers.chat_file import FileRules
from finetune_pipeline.training.history import LoggedLoss

if TYPE_CHECKING:
    from finetune_pipeline.trainers.hosted import HostedTrainer

JobState = Literal["running", "succeeded", "failed", "cancelled"]
"""The normalised state of a job. Unknown states count as running: treating one as ended would buy another job."""
_BUSY = (408, 409, 425, 429)
"""Status codes that say nothing about the request itself."""
_KEY_FIX = {401: "check the key in {key}", 403: "check the permissions of the key in {key}", 402: "look at the account"}


class Unclear(OutsideError):
    """A request got no clear answer. The service may have processed it."""


class Refused(JobError):
    """The service rejected the request."""

    def __init__(self, problem: str, fix: str, status: int = 0) -> None:
        super().__init__(problem, fix)
        self.status = status


@dataclass(frozen=True)
class Job:
    """A training at a service. word: the service's own name of the state. model: the tuned one; empty until it exists. reason:
    why it failed. tokens, dollars: billed so far, if the service reports them."""

    id: str
    state: JobState
    word: str
    model: str = ""
    reason: str = ""
    tokens: int | None = None
    dollars: float | None = None


@dataclass(frozen=True)
class JobLog:
    """The log of a job so far, oldest first. events: messages by their ids; losses: with one loss
    each."""

    events: dict[str, str]
    losses: list[LoggedLoss]


@dataclass(frozen=True)
class Files:
    """Ids of uploaded files."""

    train: str
    validation: str


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of a job. `dollars` None: unknown. `source`: how it was computed, or why it is unknown."""

    dollars: float | None
    source: str


def without_version(url: str) -> str:
    """Return the address of a service without the API's version at its end."""
    return url.rstrip("/").removesuffix("/v1")


class Service(ABC):
    """A connection to a training service, for one task. label: its name, in messages and in the price list. place: name and host,
    for messages. ordered_at: identifies the service in the ledger of jobs. model: the base model, as the service calls it.
    key_name: environment variable that holds the key."""

    def __init__(self, trainer: HostedTrainer, spec: TaskSpec, label: str, default: str) -> None:
        """default: the service's usual address, which the spec may omit or write out: the job is the same."""
        section = trainer.section(spec)
        self.trainer, self.training = trainer, spec.training
        self.label, self.url = label, section.base_url or default
        self.place = f"{label} ({urlsplit(self.url).netloc or self.url})"
        self.ordered_at = self.place if without_version(self.url) == without_version(default) else self.url
        self.model = section.model or str(trainer.usual_model(spec))
        self.key_name = trainer.key_name(spec)
        self.epochs = whole_epochs(spec.training)
        self.request_seconds = section.request_seconds

    def open_client(self, sdk_client: Callable[..., Any], http_client: Callable[..., Any], **options: Any) -> Any:
        """Open the client of an SDK: no retries, and no redirects, which could leak the key."""
        options |= {"api_key": os.environ[self.key_name], "base_url": self.url, "max_retries": 0}
        try:
            http = http_client(follow_redirects=False, trust_env=not is_local(self.url), timeout=self.request_seconds)
            return sdk_client(http_client=http, **options)
        except Exception as error:  # noqa: BLE001 - of many kinds
            raise Refused(f"no connection to {self.place} can be made: {error}", CLIENT_FIX) from None

    @property
    @abstractmethod
    def hyperparameters(self) -> dict[str, object]:
        """The hyperparameters of the requested job; equal ones identify the same job."""

    @abstractmethod
    def findings(self) -> list[Finding]:
        """Ask the service for problems: model, shutdown date, limits. Uploads and buys nothing."""

    @abstractmethod
    def file_rules(self) -> FileRules:
        """Return the service's requirements for files."""

    @abstractmethod
    def upload(self, path: Path) -> str:
        """Upload a file of training rows. Returns its id."""

    def estimate(self, files: Files) -> Estimate | None:
        """Return the service's own estimate; None if it has none."""
        return None

    @abstractmethod
    def buy(self, name: str, files: Files) -> Job:
        """Request a job named `name`. This request costs money and is sent once."""

    @abstractmethod
    def jobs_named(self, name: str) -> list[Job]:
        """Return the jobs with this name, oldest first."""

    @abstractmethod
    def job(self, job: str) -> Job:
        """Return a job in its current state."""

    @abstractmethod
    def cancel(self, job: str) -> None:
        """Stop a job."""

    @abstractmethod
    def log(self, job: str) -> JobLog:
        """Return the log of a job so far."""

    @abstractmethod
    def download(self, job: str, folder: Path) -> int | None:
        """Write adapter_config.json and adapter_model.safetensors into `folder`. Returns their training step."""

    @abstractmethod
    def endpoint(self, job: Job) -> tuple[str, str]:
        """Return (base URL, name) of a trained model that stays at the service."""

    @contextlib.contextmanager
    def request(self, action: str) -> Iterator[None]:
        """Translate a failure of the SDK into :class:`Refused` or :class:`Unclear`, without secrets."""
        try:
            yield
        except (JobError, OutsideError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - SDKs raise many kinds, and on malformed replies any kind
            raise self._failure(action, error) from None  # a chained error would contain headers, and so the key

    def plain(self, text: str) -> str:
        """Return a service's message as one short line, without control characters and the key."""
        key = os.environ.get(self.key_name, "")
        line = "".join(character if character.isprintable() else " " for character in text)
        if key:
            line = line.replace(key, "[key]")
        return " ".join(line.split())[:300]

    def _failure(self, action: str, error: Exception) -> Refused | Unclear:
        """Return the error for a failed request: Refused if its status or the SDK says so, else Unclear."""
        status = getattr(error, "status_code", None)
        text = self.plain(_body_message(error) or str(error) or type(error).__name__)
        if isinstance(status, int) and 300 <= status < 500 and status not in _BUSY:
            fix = _KEY_FIX.get(status, "fix what the reply reports, and run again").format(key=self.key_name)
            if status < 400:
                text = f"it redirects to {self.plain(error.response.headers.get('location', 'nowhere'))}"  # type: ignore[attr-defined]
                fix = (
                    f"write the address that it redirects to as training.{self.trainer.name}.base_url, if you trust it"
                )
            return Refused(f"{self.place} does not {action} ({status}): {text}", fix, status)
        if type(error) is ValueError:  # an SDK's own check of its arguments; parsing raises subclasses
            return Refused(f"{self.place} is not asked to {action}: {text}", "fix what is reported, and run again")
        outcome = f"answered {status}" if isinstance(status, int) else f"gave no clear answer ({type(error).__name__})"
        return Unclear(
            f"{self.place} {outcome} when asked to {action}: {text}",
            "run again once the service works; a requested job is found by its key and never bought twice",
        )


def _body_message(error: Exception) -> str:
    """Return the message in an error's body, which both SDKs have."""
    body = getattr(error, "body", None)
    if isinstance(body, Mapping):
        content = body.get("error", body)
        if isinstance(content, Mapping) and isinstance(content.get("message"), str):
            return str(content["message"])
    return ""
