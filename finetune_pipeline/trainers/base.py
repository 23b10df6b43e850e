"""What a trainer says about itself, the registry of trainers, and how one is run.

A trainer is one module with one registered class, of this package or of another; ``training.trainer`` names it.
"""

from __future__ import annotations

import contextlib
import difflib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from finetune_pipeline.findings import Finding
from finetune_pipeline.models.hosted import HostedModel
from finetune_pipeline.planning.preflight import preflight as task_preflight
from finetune_pipeline.progress import tell
from finetune_pipeline.reporting import say
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import TaskSpec


@dataclass(frozen=True)
class TrainingOrder:
    """One training as a trainer gets it.

    Attributes:
        base: Artifact or folder of the base model.
        train, validation: Files of examples.
        out: Where the result goes: adapter/, history.jsonl, measured.json.
        work: Folder that outlives a kill.
        launch: Runs a job of worker.jobs in a child process on this machine, and returns its facts.
        home: Folder of everything the pipeline makes.
        tick: Called after every look at a running training: sends work/history.jsonl to whoever follows it.
    """

    spec: TaskSpec
    base: Path
    train: Path
    validation: Path
    out: Path
    work: Path
    launch: Callable[[Mapping[str, Any]], dict[str, Any]]
    home: Path = field(default_factory=lambda: read_settings().home)
    task_folder: Path | None = None
    tick: Callable[[], None] = lambda: None


class Trainer(ABC):
    """A place where training runs. Every training has an instance of its own, which may keep what it needs.

    Attributes:
        name: As ``training.trainer`` calls it.
        where: Where it trains, for the reference.
        methods: The training methods it knows; None: all.
        returns: What comes back: weights that are merged and served here, or a model that answers at an endpoint.
        on_this_machine: It takes this machine's memory.
        options: Model of ``training.trainer_options``; None: it takes none. Trainers of this package have sections instead.
        poll_seconds: Time between two looks at a running training.
    """

    name: ClassVar[str]
    where: ClassVar[str]
    methods: ClassVar[frozenset[str] | None] = None
    returns: ClassVar[Literal["weights", "endpoint"]] = "weights"
    on_this_machine: ClassVar[bool] = False
    options: ClassVar[type[BaseModel] | None] = None
    poll_seconds: float = 10.0

    def preflight(self, spec: TaskSpec) -> list[Finding]:
        """What speaks against training here: a missing key, a base model that is not offered."""
        return []

    def returned(self, spec: TaskSpec) -> Literal["weights", "endpoint"]:
        """What comes back for this task, where it depends on settings."""
        return self.returns

    @contextlib.contextmanager
    def serving(self, spec: TaskSpec, hosted: HostedModel, home: Path) -> Iterator[HostedModel]:
        """The model of a finished training while it is asked; its endpoint is started and stopped where it must be."""
        yield hosted

    @abstractmethod
    def submit(self, order: TrainingOrder) -> str:
        """Start a training, or go on with the one that was started for the same order. Returns its id."""

    @abstractmethod
    def poll(self, training: str) -> Literal["running", "ended"]:
        """How far it is."""

    @abstractmethod
    def cancel(self, training: str) -> str | None:
        """Stop it. Returns what it cost so far, as a sentence, where it costs money."""

    @abstractmethod
    def collect(self, training: str, order: TrainingOrder) -> dict[str, Any]:
        """Bring the result into ``order.out``. Returns the facts of worker.jobs.train_job.

        Raises:
            JobError: The training failed.
        """


TRAINERS: dict[str, Trainer] = {}
T = TypeVar("T", bound=type[Trainer])


def register(cls: T) -> T:
    TRAINERS[cls.name] = cls()
    return cls


@contextlib.contextmanager
def on_interrupt(cancel: Callable[[BaseException], None]) -> Iterator[None]:
    """Call `cancel` with the interrupt that ends the block (Ctrl-C, a cancelled run). A failure is none: the job goes on,
    and the next run takes it up."""
    try:
        yield
    except BaseException as interrupt:
        if not isinstance(interrupt, Exception):
            cancel(interrupt)
        raise


def train(order: TrainingOrder) -> dict[str, Any]:
    """Train where the spec says, wait for the end, and return the facts. An interrupt cancels the training, and its notes say
    what that cost."""
    trainer = type(TRAINERS[order.spec.training.trainer])()
    training = trainer.submit(order)

    def cancel(interrupt: BaseException) -> None:
        if sentence := trainer.cancel(training):
            say(f"adapter: {sentence}")
            tell("adapter", sentence)
            interrupt.add_note(sentence)

    with on_interrupt(cancel):
        while trainer.poll(training) == "running":
            order.tick()
            time.sleep(trainer.poll_seconds)
    return trainer.collect(training, order)


def preflight(spec: TaskSpec, folder: Path, base: Path | None = None) -> list[Finding]:
    """What speaks against training a task: its spec, its base model (planning.preflight), and its trainer."""
    return [*task_preflight(spec, folder, base), *_trainer_findings(spec)]


def _trainer_findings(spec: TaskSpec) -> list[Finding]:
    name, method = spec.training.trainer, spec.training.method
    trainer = TRAINERS.get(name)
    if trainer is None:
        near = difflib.get_close_matches(name, TRAINERS, 1, 0.5)
        fix = f"did you mean {near[0]!r}?" if near else f"write one of {', '.join(TRAINERS)}"
        return [Finding("training.trainer", "error", "task.yaml: training.trainer", f"no trainer {name!r}", fix)]
    if trainer.methods is not None and method not in trainer.methods:
        message = f"the trainer {name} does not know the method {method}"
        fix = f"set training.method: {' or '.join(m for m in METHODS if m in trainer.methods)}"
        return [Finding("training.trainer", "error", "task.yaml: training.method", message, fix)]
    return [*_option_findings(trainer, spec), *trainer.preflight(spec)]


def _option_findings(trainer: Trainer, spec: TaskSpec) -> list[Finding]:
    given = spec.training.trainer_options
    place = "task.yaml: training.trainer_options"
    if trainer.options is None:
        message = f"the trainer {trainer.name} takes no options ({', '.join(map(str, given))})"
        return [Finding("training.trainer_options", "error", place, message, "remove them")] if given else []
    try:
        trainer.options.model_validate(given)
    except ValidationError as error:
        fix = f"the trainer {trainer.name} takes {', '.join(trainer.options.model_fields)}"
        return [
            Finding("training.trainer_options", "error", ".".join([place, *map(str, e["loc"])]), f"{e['msg']}", fix)
            for e in error.errors()
        ]
    return []
