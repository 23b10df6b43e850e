"""What a trainer says about itself, the registry of trainers, and how one is run.

A trainer is one module of this package with one registered class; ``training.trainer`` names it.
"""

from __future__ import annotations

import difflib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from finetune_pipeline.findings import Finding
from finetune_pipeline.planning.preflight import preflight as task_preflight
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import TaskSpec


@dataclass(frozen=True)
class TrainingOrder:
    """One training as a trainer gets it.

    Attributes:
        base: Artifact or folder of the base model.
        train: File of training examples.
        validation: File of validation examples.
        out: Where the result goes: adapter/, history.jsonl, measured.json.
        work: Folder that outlives a kill.
        launch: Runs a job of worker.jobs in a child process on this machine, and returns its facts.
    """

    spec: TaskSpec
    base: Path
    train: Path
    validation: Path
    out: Path
    work: Path
    launch: Callable[[Mapping[str, Any]], dict[str, Any]]


class Trainer(ABC):
    """A place where training runs.

    Attributes:
        name: As ``training.trainer`` calls it.
        where: Where it trains, for the reference.
        methods: The training methods it knows; None: all.
        returns: What comes back: weights that are merged and served here, or a model that answers at an endpoint.
        poll_seconds: Time between two looks at a running training.
    """

    name: ClassVar[str]
    where: ClassVar[str]
    methods: ClassVar[frozenset[str] | None] = None
    returns: ClassVar[Literal["weights", "endpoint"]] = "weights"
    poll_seconds: ClassVar[float] = 10.0

    def preflight(self, spec: TaskSpec) -> list[Finding]:
        """What speaks against training here: a missing key, a base model that is not offered."""
        return []

    @abstractmethod
    def submit(self, order: TrainingOrder) -> str:
        """Start a training. Returns its id."""

    @abstractmethod
    def poll(self, training: str) -> Literal["running", "ended"]:
        """How far it is."""

    @abstractmethod
    def cancel(self, training: str) -> None:
        """Stop it."""

    @abstractmethod
    def collect(self, training: str, order: TrainingOrder) -> dict[str, Any]:
        """Bring the result into ``order.out``. Returns the facts of worker.jobs.train_job.

        Raises:
            JobError: The training failed.
        """


TRAINERS: dict[str, Trainer] = {}
T = TypeVar("T", bound=type[Trainer])


def register(cls: T) -> T:
    """Class decorator: add a trainer."""
    TRAINERS[cls.name] = cls()
    return cls


def train(order: TrainingOrder) -> dict[str, Any]:
    """Train where the spec says, wait for the end, and return the facts. Whatever interrupts it cancels the training."""
    trainer = TRAINERS[order.spec.training.trainer]
    training = trainer.submit(order)
    try:
        while trainer.poll(training) == "running":
            time.sleep(trainer.poll_seconds)
    except BaseException:
        trainer.cancel(training)
        raise
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
    return trainer.preflight(spec)
