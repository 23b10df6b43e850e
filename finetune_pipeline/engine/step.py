"""One step of the graph: its inputs, the settings its result depends on, and the function that makes it.

The table of all steps is :mod:`finetune_pipeline.pipeline`. Versions, Dagster assets, jobs and MLflow runs follow from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import msgspec

from finetune_pipeline.engine.checks import Check
from finetune_pipeline.engine.store import Artifact, ArtifactStore, Builder
from finetune_pipeline.faults import JobError
from finetune_pipeline.spec.model import Task, TaskSpec

SHARED = "shared"
"""Task name for artifacts shared by all tasks: base models."""

Tool = Callable[[Any], dict[str, object]]
"""Carries out a request that a step cannot carry out itself, such as running a job, and returns its facts."""


def no_tool(request: Any) -> dict[str, object]:
    """Raise RuntimeError: the default where a step is run without a tool."""
    raise RuntimeError(f"this step needs a tool it was not given, for {request!r:.200}")


class Champion(TypedDict):
    """The model that a candidate is compared with: versions of its artifacts and its number in the registry.

    Of a simple model or a prompt also its kind, its name and the digest of its files; adapter and merged are then those of the run
    that made it. forgotten: it was trained on rows forgotten since.
    """

    adapter: str
    merged: str
    model_version: int
    kind: NotRequired[str]
    name: NotRequired[str]
    files: NotRequired[str]
    forgotten: NotRequired[bool]


class PromotedVersion(TypedDict):
    """A registered version, and whether it is the champion."""

    model_version: int
    serves: bool


@dataclass(frozen=True)
class RunInputs:
    """A run's inputs from outside the graph, fixed when the run began. Files that arrive later wait for the next run.

    Fields are digests unless stated otherwise; empty if there is nothing.

    Attributes:
        logs: Digest of all production rows.
        corrections: Digest of the training examples made from them.
        base: Identity of the base model and its chat template.
        champion: None if no model is in service.
        promoted: The registered version that the candidate is, if it was promoted earlier and its evaluation has changed since.
        never_break: Ids of the examples that a candidate must answer correctly.
        ability: Digest of the files for general ability.
        trained_on: Version of the splits that production is compared with: the champion's, or the current ones.
        judging: Digest of the production rows reserved for evaluation.
        ladder: Version of the task's newest ladder.
        preferences: Digest of the files of preferences and of those in the logs; empty without training.refine.
        preferred: Versions of refined_adapter whose answers people surely prefer to those of the first stage.
        split_ledger: Name of the ledger that keeps every row in its split.
        unlabelled: Digest of the files of rows without an answer, or of a teacher's answers in the logs.
        agreement: Not a digest: that of the people who answered rows for test and validation (data.people.ReviewersAgreement).
    """

    raw: str
    reviews: str
    logs: str
    corrections: str
    base: Mapping[str, Any]
    champion: Champion | None = None
    promoted: PromotedVersion | None = None
    never_break: list[str] = field(default_factory=list)
    ratings: str = ""
    ability: str = ""
    trained_on: str = ""
    judging: str = ""
    documents: str = ""
    ladder: str = ""
    split_ledger: str = "splits"
    preferences: str = ""
    preferred: list[str] = field(default_factory=list)
    unlabelled: str = ""
    agreement: Mapping[str, Any] | None = None

    @property
    def champion_kind(self) -> str:
        """The kind of the model to compare with (result.WinnerKind); `tuned` without one."""
        return self.champion.get("kind", "tuned") if self.champion else "tuned"

    @property
    def champion_files(self) -> str | None:
        """The identity of the model to compare with, by which its answers are known: its merged model, or its files."""
        return self.champion.get("files", self.champion["merged"]) if self.champion else None

    @property
    def champion_forgotten(self) -> bool:
        """Whether the model to compare with was trained on rows forgotten since."""
        return bool(self.champion and self.champion.get("forgotten"))


class Inputs(dict[str, Artifact]):
    """A step's input artifacts by name, each checked when the step first opens it by ``inputs[name]``.

    Listing names or items opens none. The attribute `opened` has the names of those opened so far.

    Args:
        check: Called with each artifact before it is first returned (ArtifactStore.check).
    """

    def __init__(self, artifacts: Mapping[str, Artifact], check: Callable[[Artifact], object]) -> None:
        super().__init__(artifacts)
        self._check = check
        self.opened: set[str] = set()

    def __getitem__(self, name: str) -> Artifact:
        artifact = super().__getitem__(name)
        if name not in self.opened:
            self._check(artifact)
            self.opened.add(name)
        return artifact


@dataclass
class StepContext:
    """The arguments of a step's function.

    Attributes:
        inputs: Artifacts of the steps it needs.
        builder: The step's output: `out` becomes the artifact, `builder.work` survives a kill.
        launch: Runs a job of :mod:`finetune_pipeline.jobs` in a child process and returns its facts.
        release: Registers a model and moves aliases (:func:`finetune_pipeline.orchestration.release.release`). Returns its outcome.
        follow: Sends the history.jsonl in a folder to MLflow.
    """

    task: Task
    run_inputs: RunInputs
    inputs: Mapping[str, Artifact]
    builder: Builder
    store: ArtifactStore
    launch: Tool
    release: Callable[[Any], object]
    follow: Callable[[Path], None] = lambda folder: None

    @property
    def spec(self) -> TaskSpec:
        return self.task.spec

    @property
    def out(self) -> Path:
        return self.builder.folder

    def refuse_changed(self, subject: str, current: object, pinned: object) -> None:
        """Raise JobError, so that nothing is retried, if an input from outside the graph has changed since the run began."""
        if current != pinned:
            raise JobError(
                f"{subject} of {self.task.name} changed since this run began\nfix: run it again, with the current ones"
            )


@dataclass(frozen=True)
class Step:
    """One row of the table in :mod:`finetune_pipeline.pipeline`.

    Attributes:
        name: Also the name of the asset and the artifact.
        group: Stage, and asset group in Dagster.
        make: Writes the files to `context.out` and returns the facts, which
            :meth:`~finetune_pipeline.engine.store.Artifact.read` returns again. None for a view.
        needs: Steps whose versions determine this step's version.
        after: Steps that are read too but do not change the version: `settings` contains what matters. The step is not made
            while a blocking check of one of them fails.
        follows: Steps of which an earlier version is read through the store, the one that `settings` names. In a run that makes
            both, the followed step comes first.
        settings: The parts of the spec and of the run's inputs that the result depends on, by name: MLflow's parameters.
        code_version: Increased by hand when the result changes for equal inputs.
        checks: Asset checks of the artifact.
        shows: Files of the artifact that are logged in MLflow: figures, settings and verdicts. Files with texts of rows stay
            in the artifact store, so that forgetting a person needs no search of other databases.
        kinds: Labels of the asset in Dagster, such as `jsonl`.
        heavy: Whether it runs a model in a child process: it takes the only slot of the GPU pool, and is retried after a crash.
        shared: Whether all tasks share the artifact, which is stored under the task name `shared`.
        asked_for: Not part of a full run or of its stage; made only by a job that names it.
        failed: Counts the failed rows of an artifact. If there are any, no step uses the artifact, and it is made
            again when the step runs again.
        skipped_by: A step, and a function that returns why this one makes nothing, given that step's artifact; empty: it is made.
            The artifact then has the fact `not_made`, a version of its own that no settings change, and checks that pass.
        view_of: For a view, which makes nothing: the step whose artifact and version it has.
        split: The split of that artifact which the view shows.
        datasets: Splits that are logged in MLflow as inputs of this step.
        metrics: MLflow's metrics from nested facts, as name and JMESPath; top-level numbers are logged anyway.
        run_metrics: Metrics that MLflow's parent run also shows, with the step's settings, data sets and verdict.
    """

    name: str
    group: str
    description: str
    make: Callable[[StepContext], msgspec.Struct] | None = None
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    settings: Callable[[TaskSpec, RunInputs], Mapping[str, Any]] = lambda spec, run: {}
    code_version: str = "1"
    checks: tuple[Check, ...] = ()
    shows: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    heavy: bool = False
    shared: bool = False
    asked_for: bool = False
    failed: Callable[[Artifact], int] = lambda artifact: 0
    skipped_by: tuple[str, Callable[[Artifact, TaskSpec], str]] | None = None
    view_of: str | None = None
    split: str | None = None
    datasets: tuple[str, ...] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)
    run_metrics: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """All steps that this one reads."""
        return (self.view_of,) if self.view_of else (*self.needs, *self.after)

    def is_complete(self, artifact: Artifact) -> bool:
        """Whether no row of an artifact of this step failed."""
        return not self.failed(artifact)
