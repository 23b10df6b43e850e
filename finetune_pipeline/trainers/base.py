"""Base class and registry of trainers, and how a trainer runs.

A trainer is a module with one registered class, in this package or another one; ``training.trainer`` selects it by name.
"""

import contextlib
import difflib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from finetune_pipeline.faults import JobError
from finetune_pipeline.findings import Finding
from finetune_pipeline.jobs import TrainJob
from finetune_pipeline.models.hosted import HostedModel
from finetune_pipeline.planning.preflight import preflight as task_preflight
from finetune_pipeline.progress import tell
from finetune_pipeline.reporting import say
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.training.facts import AnyTraining


@dataclass(frozen=True)
class TrainingOrder:
    """The description of a training, as a trainer gets it.

    Attributes:
        base: Artifact or folder of the base model.
        out: Output folder: adapter/, history.jsonl, measured.json; work: folder that survives a kill.
        launch: Runs a job in a child process on this machine, and returns its facts.
        home: FINETUNE_HOME, the folder of all artifacts. task_folder: folder of task.yaml, which may have a price list.
        tick: Called after every poll; sends work/history.jsonl to those who follow the training.
    """

    spec: TaskSpec
    base: Path
    train: Path
    validation: Path
    out: Path
    work: Path
    launch: Callable[[TrainJob], dict[str, Any]]
    home: Path = field(default_factory=lambda: read_settings().home)
    task_folder: Path | None = None
    tick: Callable[[], None] = lambda: None


class Trainer(ABC):
    """A place where training runs. Every training has its own instance, which may have state.

    Attributes:
        name: The value of ``training.trainer``; where: the place of training, for the reference page.
        methods: Supported training methods; None: all.
        returns: The result of training: weights to merge and serve here, or a model hosted at an endpoint.
        on_this_machine: Whether it uses this machine's memory.
        options: Schema of ``training.trainer_options``; None: no options. Trainers of this package have sections instead.
    """

    name: ClassVar[str]
    where: ClassVar[str]
    methods: ClassVar[frozenset[str] | None] = None
    returns: ClassVar[Literal["weights", "endpoint"]] = "weights"
    on_this_machine: ClassVar[bool] = False
    options: ClassVar[type[BaseModel] | None] = None
    poll_seconds: float = 10.0

    def preflight(self, spec: TaskSpec) -> list[Finding]:
        """Return findings against training here: a missing key, an unsupported base model."""
        return []

    def returned(self, spec: TaskSpec) -> Literal["weights", "endpoint"]:
        """Return the kind of result for this task, which may depend on settings."""
        return self.returns

    @contextlib.contextmanager
    def serving(self, spec: TaskSpec, hosted: HostedModel, home: Path) -> Iterator[HostedModel]:
        """Context in which a finished model is served; starts and stops its endpoint if necessary."""
        yield hosted

    @abstractmethod
    def submit(self, order: TrainingOrder) -> str:
        """Start a training, or resume the one already started for the same order. Returns its id."""

    @abstractmethod
    def poll(self, training: str) -> Literal["running", "ended"]:
        """Return the state of the training."""

    @abstractmethod
    def cancel(self, training: str) -> str | None:
        """Stop the training. Returns its cost so far as a sentence, if it costs money."""

    @abstractmethod
    def collect(self, training: str, order: TrainingOrder) -> AnyTraining:
        """Write the result into ``order.out``. Returns its facts. Raises JobError if training failed."""


TRAINERS: dict[str, Trainer] = {}
TrainerClass = TypeVar("TrainerClass", bound=type[Trainer])


def register(cls: TrainerClass) -> TrainerClass:
    """Class decorator: add a trainer."""
    TRAINERS[cls.name] = cls()
    return cls


@contextlib.contextmanager
def on_interrupt(cancel: Callable[[BaseException], None]) -> Iterator[None]:
    """Call `cancel` if an interrupt ends the block (Ctrl-C, a cancelled run), but not on failures: the job then continues, and
    the next run adopts it."""
    try:
        yield
    except BaseException as interrupt:
        if not isinstance(interrupt, Exception):
            cancel(interrupt)
        raise


def train(order: TrainingOrder) -> AnyTraining:
    """Train with the spec's trainer, wait for the end, and return the facts. An interrupt cancels the training; a note on the
    interrupt states the cost."""
    trainer = type(TRAINERS[order.spec.training.trainer])()
    training = trainer.submit(order)

    def cancel(interrupt: BaseException) -> None:
        try:
            sentence = trainer.cancel(training)
        except BaseException as second:
            second.add_note(
                f"the {trainer.name} training {training} may still run: a second interrupt came while it was being cancelled"
            )
            raise
        if sentence:
            say(f"adapter: {sentence}")
            tell("adapter", sentence)
            interrupt.add_note(sentence)

    with on_interrupt(cancel):
        while trainer.poll(training) == "running":
            order.tick()
            time.sleep(trainer.poll_seconds)
    facts = trainer.collect(training, order)
    if not isinstance(facts, AnyTraining):
        problem = f"the trainer {trainer.name} returned {type(facts).__name__}, and not the facts of a training"
        raise JobError(problem, "return finetune_pipeline.training.facts.LocalTraining or HostedTraining in `collect`")
    try:
        return type(facts).of(facts.to_json())
    except ValueError as error:
        problem = f"the trainer {trainer.name} returned wrong facts: {error}"
        raise JobError(problem, f"correct what `collect` of {type(trainer).__name__} returns") from error


def preflight(spec: TaskSpec, folder: Path, base: Path | None = None) -> list[Finding]:
    """Return findings against training a task: those of planning.preflight on spec and base model, and those on its trainer."""
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
    """Check training.trainer_options against the trainer's schema."""
    options = spec.training.trainer_options
    place = "task.yaml: training.trainer_options"
    if trainer.options is None:
        message = f"the trainer {trainer.name} takes no options ({', '.join(map(str, options))})"
        return [Finding("training.trainer_options", "error", place, message, "remove them")] if options else []
    try:
        trainer.options.model_validate(options)
    except ValidationError as error:
        fix = f"the trainer {trainer.name} takes {', '.join(trainer.options.model_fields)}"
        return [
            Finding("training.trainer_options", "error", ".".join([place, *map(str, e["loc"])]), e["msg"], fix)
            for e in error.errors()
        ]
    return []
