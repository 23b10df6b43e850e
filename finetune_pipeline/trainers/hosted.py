"""Base class of hosted trainers: runs the preflight before any upload, finds or buys the job, follows it, downloads the result.

:class:`~finetune_pipeline.trainers.service.Service` sends the requests to a service; the ledger ensures that an order is
bought only once.
"""

import functools
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, TypeVar

from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.engine.files import digest_file
from finetune_pipeline.faults import JobError
from finetune_pipeline.findings import Finding, FindingsError, Severity, errors
from finetune_pipeline.models.identity import model_kind
from finetune_pipeline.progress import tell
from finetune_pipeline.reporting import say
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.trainers import HostedSection
from finetune_pipeline.trainers.base import Trainer, TrainingOrder, on_interrupt
from finetune_pipeline.trainers.chat_file import ChatFile, file_findings, write_chat_file
from finetune_pipeline.trainers.hosted_result import write_result
from finetune_pipeline.trainers.hosted_settings import budget_findings, common_problems, listed_price
from finetune_pipeline.trainers.ledger import Entry, Ledger, Order
from finetune_pipeline.trainers.service import Estimate, Files, Job, Refused, Service, Unclear
from finetune_pipeline.training import history
from finetune_pipeline.training.facts import HostedTraining
from finetune_pipeline.training.rows import training_examples

_MAX_ATTEMPTS = 10
"""Attempts of a free request until it gets a clear answer."""
Answer = TypeVar("Answer")


class HostedTrainer(Trainer):
    """Base class of trainers at a paid service. extra: the required extra, named like its package. usual_key: the default
    environment variable with the API key. estimates: whether the service estimates the cost of a job."""

    methods = frozenset({"lora", "qlora"})
    extra: ClassVar[str | None] = None
    usual_key: ClassVar[str]
    estimates: ClassVar[bool] = False
    service: Service

    def section(self, spec: TaskSpec) -> HostedSection:
        section: HostedSection = getattr(spec.training, self.name)
        return section

    def key_name(self, spec: TaskSpec) -> str:
        return self.section(spec).api_key_env or self.usual_key

    @abstractmethod
    def problems(self, spec: TaskSpec) -> list[Finding]:
        """Return findings about this trainer's own settings, without any request."""

    @abstractmethod
    def connect(self, spec: TaskSpec) -> Service:
        """Connect to the service; the settings must be valid."""

    def hosting(self, spec: TaskSpec) -> Estimate:
        """Return the least cost of evaluating the model at an endpoint that is paid by time."""
        return Estimate(0.0, "there is none")

    def preflight(self, spec: TaskSpec) -> list[Finding]:
        findings = [*common_problems(self, spec), *self.problems(spec)]
        if errors(findings):
            return findings
        try:
            return [*findings, *self.connect(spec).findings()]
        except Refused as refusal:
            return [*findings, self.finding("refused", "model", refusal.problem, refusal.fix)]
        except Unclear as unclear:
            return [*findings, self.finding("unreachable", "base_url", unclear.problem, unclear.fix, "warning")]

    def finding(self, rule: str, key: str, message: str, fix: str, severity: Severity = "error") -> Finding:
        """Return a finding about a key of this trainer's section, or about a full key with dots."""
        place = key if "." in key or key == "base_model" else f"training.{self.name}.{key}"
        return Finding(f"hosted.{rule}", severity, f"task.yaml: {place}", message, fix)

    def submit(self, order: TrainingOrder) -> str:
        spec, section = order.spec, self.section(order.spec)
        if blocking := errors([*common_problems(self, spec), *self.problems(spec)]):
            raise FindingsError(blocking)
        self.service, self.order, self.poll_seconds = self.connect(spec), order, section.poll_seconds
        self.ledger, self.began = Ledger(order.home / "jobs"), time.monotonic()
        examples = {
            "train": training_examples(read_examples(order.train), spec.training),
            "validation": read_examples(order.validation),
        }
        self.files = {
            name: write_chat_file(order.work / f"{name}_upload.jsonl", split) for name, split in examples.items()
        }
        self.digests = {split: digest_file(file.path) for split, file in self.files.items()}
        self.ledger_order = Order(
            trainer=self.name,
            service=self.service.ordered_at,
            model=self.service.model,
            **self.digests,
            hyperparameters=self.service.hyperparameters,
        )
        with on_interrupt(self._cancel_requested):
            prepare = functools.partial(self._prepare, examples=examples)
            job = self.ledger.job_of(self.ledger_order, self.service, prepare, section.settle_seconds)
        tell("adapter", f"job {job.id} at {self.service.place}: {job.word}")
        self._reported = {job.word}  # states, ids of events, and rows of losses as text
        return job.id

    def poll(self, training: str) -> Literal["running", "ended"]:
        job = self._retry(lambda: self.service.job(training))
        if job.word not in self._reported:
            self._reported.add(job.word)
            tell("adapter", f"job {job.id}: {self.service.plain(job.word)}")
        try:
            self._follow(training)
        except (Unclear, Refused) as failure:  # the next poll can still read the log
            say(f"adapter: {failure}")
        return "running" if job.state == "running" else "ended"

    def cancel(self, training: str) -> str:
        try:
            self.service.cancel(training)
            outcome = f"the job {training} at {self.service.place} was cancelled"
        except (Unclear, Refused) as failure:
            outcome = f"the job {training} at {self.service.place} may still run, cancel it there: {failure}"
        try:
            return f"{outcome}; {self._cost(self.service.job(training))}"
        except (Unclear, Refused):
            return f"{outcome}; its cost so far is unknown"

    def _cancel_requested(self, interrupt: BaseException) -> None:
        """Cancel a job that was requested, but whose id is not known yet. Notes on the interrupt state the outcome.

        The service may take long to answer, so that a second interrupt comes: it gets the note, too.
        """
        attempt, place = self.ledger.entry(self.ledger_order).attempt, self.service.place
        if attempt.asked_at is None or attempt.state == "refused":
            return
        say(f"adapter: asking {place} for the job {attempt.name}, to cancel it")
        tell("adapter", f"asking {place} for the job {attempt.name}, to cancel it")
        outcome = "it was not looked for there"
        jobs: list[Job] = []
        try:
            jobs = self.service.jobs_named(attempt.name)
            outcome = "it is not listed there yet"
            for job in jobs:
                ended = f"the job {job.id} at {place} is {job.word}; {self._cost(job)}"
                interrupt.add_note(self.cancel(job.id) if job.state == "running" else ended)
        except (Unclear, Refused) as failure:
            outcome = str(failure)
        except BaseException as second:
            for note in (*getattr(interrupt, "__notes__", []), self._may_run(attempt.name, outcome)):
                second.add_note(note)
            raise
        if not jobs:
            interrupt.add_note(self._may_run(attempt.name, outcome))

    def _may_run(self, name: str, outcome: str) -> str:
        """Say that a job may have been bought, and how it is found again."""
        return (
            f"a job of the name {name} may have been bought and may run at {self.service.place}: {outcome}. Running again looks "
            f"for it before it buys another; else cancel it there. It is recorded in {self.ledger.path(self.ledger_order)}"
        )

    def collect(self, training: str, order: TrainingOrder) -> HostedTraining:
        job = self._retry(lambda: self.service.job(training))
        if job.state != "succeeded":
            text = f"the job {job.id} at {self.service.place} {job.state}: {self.service.plain(job.reason or job.word)}"
            fix = "fix what the service reports; running again buys a new job"
            raise JobError(f"{text}; {self._cost(job)}", fix)
        self._retry(lambda: self._follow(training))
        return self._retry(lambda: write_result(self, job))

    def usual_model(self, spec: TaskSpec) -> str | None:
        """Return the default name of the base model: most services know Hub ids."""
        return spec.base_model if model_kind(spec.base_model, spec.base_revision) == "hub" else None

    def _prepare(self, entry: Entry, examples: dict[str, list[Example]]) -> Files:
        """Upload the order's files, or refuse the order. Checks that need no upload come first."""
        spec, service = self.order.spec, self.service
        rules, findings = service.file_rules(), service.findings()
        for split, file in self.files.items():
            findings += file_findings(split, file, examples[split], rules)
        estimate = listed_price(service, self.files["train"].tokens, self.order.home, self.order.task_folder)
        over_budget = functools.partial(
            budget_findings,
            spec.training.budget_usd,
            hosting=self.hosting(spec),
            spent=entry.spent_usd,
            home=self.order.home,
        )
        if estimate.dollars is not None or not self.estimates:  # else the service gives one after the upload
            findings += over_budget(estimate)
        if blocking := errors(findings):
            raise FindingsError(blocking)
        files = Files(**{split: self._upload(entry, split, file) for split, file in self.files.items()})
        if service_estimate := self._retry(lambda: service.estimate(files)):
            estimate = service_estimate
            if blocking := over_budget(estimate):
                raise FindingsError(blocking)
        entry.estimate_usd = estimate.dollars
        tell("adapter", f"asks {service.place} for a job: {estimate.source}")
        return files

    def _upload(self, entry: Entry, split: str, file: ChatFile) -> str:
        """Upload a split, unless the ledger has a file of the same content. Returns the service's id of the file."""
        digest = self.digests[split]
        if digest not in entry.files:
            tell("adapter", f"uploads {file.rows} rows of {split} to {self.service.place}")
            entry.files[digest] = self._retry(lambda: self.service.upload(file.path))
            self.ledger.write(entry)
        return entry.files[digest]

    def _follow(self, training: str) -> None:
        """Report new messages of a job, and append its losses to work/history.jsonl."""
        log = self.service.log(training)
        for event, message in log.events.items():
            if event not in self._reported:
                self._reported.add(event)
                tell("adapter", self.service.plain(message))
        losses = [logged for logged in log.losses if logged.is_finite]
        new_losses = [logged for logged in losses if str(logged) not in self._reported]
        for logged in new_losses:
            tell("adapter", "validation" if logged.eval_loss is not None else "", **logged.to_json())
        if new_losses:
            self._reported |= set(map(str, new_losses))
            history.write(self.order.work / "history.jsonl", losses)

    def _retry(self, request: Callable[[], Answer]) -> Answer:
        """Repeat a free request until its answer is clear; the last attempt's Unclear is raised."""
        for attempt in range(_MAX_ATTEMPTS - 1):
            try:
                return request()
            except Unclear:
                time.sleep(min(self.poll_seconds, 2.0**attempt))
        return request()

    def _cost(self, job: Job) -> str:
        """Describe what the job has cost so far: dollars, else tokens, and the estimate."""
        if job.dollars is not None:
            return f"it cost ${job.dollars:,.2f} so far"
        billed = (
            "the billed tokens are not known yet" if job.tokens is None else f"{job.tokens:,} tokens were billed so far"
        )
        estimate = self.ledger.entry(self.ledger_order).estimate_usd
        return billed if estimate is None else f"{billed}; the whole job was estimated at ${estimate:,.2f}"
