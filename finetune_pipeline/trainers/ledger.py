"""The ledger of hosted jobs: no job is bought twice, even if a process dies or a service does not answer.

Every order has a key, a hash of data set, model and hyperparameters, and a file ``<trainer>-<key>.json``. The file records a
request that costs money durably before it is sent, and the request contains the job's name, ``<key>-<attempt>``. If its result
is uncertain (no clear answer, or the process died), the service is asked for that name, and its job is adopted.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from finetune_pipeline.engine.files import DamagedFile, digest_json, hold, read_json, sync_folder, write_json
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.reporting import say
from finetune_pipeline.trainers.service import Files, Job, JobState, Refused, Service, Unclear

MOST_REQUESTS = 3
"""Maximum number of requests per run for a job that the service does not have afterwards."""
_MAX_QUERY_PAUSE = 2.0
"""Longest pause in seconds between two queries for an uncertain job."""


class Order(BaseModel):
    """An order, which identifies its job by its content. train, validation: digests of the uploaded files."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    trainer: str
    service: str
    model: str
    train: str
    validation: str
    hyperparameters: dict[str, Any]

    @property
    def key(self) -> str:
        return digest_json(self.model_dump())[:24]


class Attempt(BaseModel):
    """A job of an order, by its name at the service. The next attempt begins only after it failed or was cancelled.

    asked_at: time of the last request that costs money (seconds since 1970); None: never sent. state: that of the job when a
    run last looked for it; ``refused``: the service rejected the order. dollars: what it cost, if the service said so.
    """

    model_config = ConfigDict(extra="forbid")
    name: str
    asked_at: float | None = None
    job: str | None = None
    state: JobState | Literal["unknown", "refused"] = "unknown"
    dollars: float | None = None


class Entry(BaseModel):
    """The ledger's record of one order. estimate_usd: at the last request; files: the service's id of each uploaded file, by
    SHA-256."""

    model_config = ConfigDict(extra="forbid")
    order: Order
    estimate_usd: float | None = None
    files: dict[str, str] = {}
    attempts: list[Attempt] = []

    @property
    def attempt(self) -> Attempt:
        if not self.attempts:
            self.begin_another()
        return self.attempts[-1]

    @property
    def spent_usd(self) -> float:
        """The cost of attempts that failed or were cancelled: as the service billed it, else as estimated."""
        ended = [attempt for attempt in self.attempts if attempt.state in ("failed", "cancelled")]
        return sum((self.estimate_usd or 0.0) if attempt.dollars is None else attempt.dollars for attempt in ended)

    def begin_another(self) -> None:
        """Begin the first attempt, or the next one after one that failed or was cancelled."""
        self.attempts.append(Attempt(name=f"{self.order.key}-{len(self.attempts) + 1}"))


class Ledger:
    """The ledger in a folder, shared by all processes on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entry(self, order: Order) -> Entry:
        """Return the entry of an order; a new one if there is none."""
        path = self.path(order)
        if not path.exists():
            return Entry(order=order)
        try:
            return Entry.model_validate(read_json(path))
        except ValidationError as error:
            raise DamagedFile(f"{path} is damaged: {error}", "put back a copy of it") from error

    def write(self, entry: Entry) -> None:
        """Write an entry durably."""
        write_json(self.path(entry.order), entry.model_dump())
        sync_folder(self.folder)

    def job_of(self, order: Order, service: Service, prepare: Callable[[Entry], Files], settle: float) -> Job:
        """Return the job of an order: adopt it if it exists, else buy it.

        prepare: refuses the order, or uploads its files; called only if no job exists. It may write the entry. settle: seconds
        after the end of a request within which a job may still appear in the service's list.
        Raises Refused if the service rejected the order, OutsideError if the job may exist: the next run asks again.
        """
        with self._lock(order):
            entry = self.entry(order)
            while (job := self._known_job(entry, service, settle)) is not None:
                if job.state not in ("failed", "cancelled"):
                    say(f"adapter: resuming the job {job.id} at {service.place}, which is {job.word}")
                    return job
                entry.begin_another()
            try:
                return self._buy(entry, service, prepare(entry), settle)
            except Refused:
                entry.files = {}  # an uploaded file may be the cause
                self.write(entry)
                raise

    def _known_job(self, entry: Entry, service: Service, settle: float) -> Job | None:
        """Return the job of the entry's last attempt, in its current state; None if the service has none."""
        attempt = entry.attempt
        if attempt.job is not None:
            job: Job | None = self._bought_job(entry, attempt.job, service)
        elif attempt.asked_at is not None and attempt.state != "refused":
            longest = service.request_seconds + settle
            # not above `longest`: the clock may have been set back since the request
            job = self._await_job(service, attempt, min(longest, attempt.asked_at + longest - time.time()))
        else:  # the ledger may be new, and the job not
            job = _job_to_resume(service.jobs_named(attempt.name), service)
        return self._recorded(entry, job) if job is not None else None

    def _bought_job(self, entry: Entry, job: str, service: Service) -> Job:
        """Return a job that the ledger has the id of. Raises Refused if the service does not know it."""
        try:
            return service.job(job)
        except Refused as refusal:
            if refusal.status != 404:
                raise
            raise Refused(
                f"{service.place} does not know the job {job}, which this training has bought",
                f"use the key of the account that bought it; or, if it was deleted there, remove "
                f"{self.path(entry.order)} and run again, which buys another",
                refusal.status,
            ) from None

    def _recorded(self, entry: Entry, job: Job) -> Job:
        """Write a job's id and state into the ledger, and return it."""
        attempt, dollars = entry.attempt, 0.0 if job.dollars is None and job.tokens == 0 else job.dollars
        if (attempt.job, attempt.state, attempt.dollars) != (job.id, job.state, dollars):
            attempt.job, attempt.state, attempt.dollars = job.id, job.state, dollars
            self.write(entry)
        return job

    def _buy(self, entry: Entry, service: Service, files: Files, settle: float) -> Job:
        """Request a job until the service has it, at most MOST_REQUESTS times."""
        for _ in range(MOST_REQUESTS):
            # the last look may be older than an upload, or a list that lags behind
            job = _job_to_resume(service.jobs_named(entry.attempt.name), service)
            if job is not None and job.state in ("running", "succeeded"):
                return self._recorded(entry, job)
            entry.attempt.asked_at, entry.attempt.state = time.time(), "unknown"
            self.write(entry)  # before the request: if this process dies, the next one knows that a job may exist
            try:
                return self._recorded(entry, service.buy(entry.attempt.name, files))
            except Refused:
                entry.attempt.state = "refused"
                raise
            except Unclear as unclear:
                say(f"adapter: {unclear}")
                last_answer = unclear.problem
                job = self._await_job(service, entry.attempt, settle)
            if job is not None:
                return self._recorded(entry, job)
        raise OutsideError(
            f"{service.place} was asked for a job {MOST_REQUESTS} times and has none of the name {entry.attempt.name}; the "
            f"last time, {last_answer}",
            "check that the service works and the account may buy, and run again",
        )

    def _await_job(self, service: Service, attempt: Attempt, seconds: float) -> Job | None:
        """Wait for the job of an uncertain request; None if it can no longer appear. Raises Unclear if this stays unknown."""
        deadline = time.monotonic() + seconds
        pause = 0.05
        while True:
            is_late = time.monotonic() >= deadline
            try:
                job = _job_to_resume(service.jobs_named(attempt.name), service)
                if job is not None or is_late:
                    return job
            except Unclear:
                if is_late:
                    raise
            time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
            pause = min(2 * pause, _MAX_QUERY_PAUSE)

    def path(self, order: Order) -> Path:
        """Return the file of an order's entry."""
        return self.folder / f"{order.trainer}-{order.key}.json"

    def _lock(self, order: Order) -> AbstractContextManager[None]:
        return hold(self.folder / ".locks" / order.key)


def _job_to_resume(jobs: list[Job], service: Service) -> Job | None:
    """Return the job to resume: the first that has not failed. Reports duplicates, because they cost money."""
    # by id: a list may name a job twice
    usable = list({job.id: job for job in jobs if job.state in ("running", "succeeded")}.values())
    for job in usable[1:]:
        duplicate = f"a second job for the same order, {job.id}, which is {job.word}"
        say(f"adapter: {service.place} has {duplicate}; cancel it there")
    return next(iter(usable or jobs), None)
