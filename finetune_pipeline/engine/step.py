"""The steps of a task as plain data, and the versions that follow from them.

A step says what it needs, on which part of the spec it depends, and which function makes it. Its version is a hash of
exactly these, so that every process can tell, without running anything, which artifacts exist and which are missing.
Dagster's assets are a thin skin over this table; the command line asks it whether there is anything to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune_pipeline.engine.store import Artifact, ArtifactStore, Builder, digest_json, read_json, write_json
from finetune_pipeline.spec.model import Task, TaskSpec

SHARED = "shared"
"""Where artifacts live that do not belong to one task: base models."""


Tool = Callable[[Mapping[str, Any]], dict[str, Any]]


def no_tool(request: Mapping[str, Any]) -> dict[str, Any]:
    """Stands where a step is run without a tool it turns out to need."""
    raise RuntimeError(f"this step needs a tool it was not given, for {sorted(request)}")


@dataclass(frozen=True)
class World:
    """What lies outside the graph, as seen when a run began: digests of files, the base model, the serving champion.

    `champion`: None, or {"adapter": version, "merged": version, "model_version": number} of the model a candidate is
    compared with. `never_break`: ids of examples a candidate must have right. `trained_on`: version of the splits that
    production is held against: the champion's, or the present ones where nothing serves. A run keeps the world it began
    with, so that files arriving meanwhile wait for the next run.
    """

    raw: str
    reviews: str
    logs: str
    corrections: str
    base: Mapping[str, Any]
    champion: Mapping[str, Any] | None = None
    never_break: list[str] = field(default_factory=list)
    ratings: str = ""
    ability: str = ""
    trained_on: str = ""
    judging: str = ""


@dataclass
class Work:
    """What a step's function gets: the task, the world, its inputs, where to write, and tools.

    `launch` runs a job of :mod:`finetune_pipeline.worker.jobs` in a child process and returns its facts. `release`
    registers a model and moves aliases (see :mod:`finetune_pipeline.steps.release`).
    """

    task: Task
    world: World
    inputs: Mapping[str, Artifact]
    builder: Builder
    store: ArtifactStore
    launch: Tool
    release: Tool

    @property
    def spec(self) -> TaskSpec:
        return self.task.spec

    @property
    def out(self) -> Path:
        return self.builder.folder


@dataclass(frozen=True)
class Step:
    """One node. `settings` returns the part of spec and world the result depends on; `make` fills work.out and
    returns the facts. `code_version` is raised by hand when the step's result changes for equal inputs.

    `needs` are inputs that decide the version. `after` are steps that must have been made and may be read, but what
    is read from them is already in `settings` (or decides nothing): they leave the version alone.

    `failed` counts the rows that failed in an artifact with such facts, by name. Where there are any, nothing is made from it,
    and it is made anew when the step runs again.
    """

    name: str
    needs: tuple[str, ...]
    code_version: str
    settings: Callable[[TaskSpec, World], Any]
    make: Callable[[Work], dict[str, Any]]
    after: tuple[str, ...] = ()
    shared: bool = False
    failed: Callable[[Mapping[str, Any]], Mapping[str, int]] = lambda facts: {}

    def whole(self, artifact: Artifact) -> bool:
        """Whether no row of an artifact of this step failed."""
        return not any(self.failed(artifact.facts).values())


class MissingInput(RuntimeError):
    """A step was asked for before the steps it needs, or while rows of one of these are without an answer."""


class Graph:
    """All steps of a pipeline in an order in which each comes after what it needs."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps: dict[str, Step] = {}
        for step in steps:
            unknown = [n for n in (*step.needs, *step.after) if n not in self.steps]
            if unknown or step.name in self.steps:
                raise ValueError(f"step {step.name}: needs {unknown} that do not come before it, or is there twice")
            self.steps[step.name] = step

    def versions(self, task: Task, world: World, store: ArtifactStore) -> dict[str, str]:
        """The version of every step for this task and world. Runs nothing."""
        found: dict[str, str] = {}
        for step in self.steps.values():
            inputs = {need: found[need] for need in step.needs}
            found[step.name] = store.version(step.name, step.code_version, inputs, step.settings(task.spec, world))
        return found

    def artifacts(self, task: Task, world: World, store: ArtifactStore) -> dict[str, Artifact | None]:
        """The artifact of every step, or None where it is still to be made."""
        return {
            name: store.find(self._owner(name, task), name, version)
            for name, version in self.versions(task, world, store).items()
        }

    def _owner(self, name: str, task: Task) -> str:
        return SHARED if self.steps[name].shared else task.name

    def find(self, name: str, task: Task, world: World, store: ArtifactStore) -> Artifact | None:
        """One step's artifact, or None where it is still to be made."""
        return store.find(self._owner(name, task), name, self.versions(task, world, store)[name])

    def run(
        self,
        name: str,
        task: Task,
        world: World,
        store: ArtifactStore,
        launch: Tool = no_tool,
        release: Tool = no_tool,
    ) -> Artifact:
        """Make one step, or find it made. Raises MissingInput naming every step that has to come first, or again."""
        step = self.steps[name]
        versions = self.versions(task, world, store)
        inputs = {
            need: store.find(self._owner(need, task), need, versions[need]) for need in (*step.needs, *step.after)
        }
        missing = [need for need, artifact in inputs.items() if artifact is None]
        if missing:
            raise MissingInput(
                f"{task.name}/{name} needs {', '.join(missing)} of the present data and spec, which "
                f"have not been made. Run `finetune run {task.name}`, or materialize them first."
            )
        present = {need: artifact for need, artifact in inputs.items() if artifact is not None}
        broken = [need for need, artifact in present.items() if not self.steps[need].whole(artifact)]
        if broken:
            counts = {need: sum(self.steps[need].failed(present[need].facts).values()) for need in broken}
            told = ", ".join(f"{n} rows failed in {need}" for need, n in counts.items())
            raise MissingInput(
                f"{task.name}/{name} is not made: {told}. Run `finetune run {task.name}`, or materialize "
                f"{', '.join(broken)} again; only rows without an answer are asked."
            )

        def make(builder: Builder) -> None:
            builder.facts.update(step.make(Work(task, world, present, builder, store, launch, release)))

        return store.build(
            self._owner(name, task),
            name,
            code_version=step.code_version,
            inputs={need: versions[need] for need in step.needs},
            settings=step.settings(task.spec, world),
            make=make,
            stands=step.whole,
        )


def pinned_world(store: ArtifactStore, task: Task, run_id: str, look: Callable[[], World]) -> World:
    """The world of a run: looked at once, by whichever of its processes comes first, and the same for all others."""
    path = store.state_folder(task.name) / "worlds" / f"{run_id}.json"
    with store.lock(task.name, "worlds"):
        if path.exists():
            return World(**read_json(path))
        world = look()
        write_json(path, asdict(world))
        return world


def world_digest(world: World) -> str:
    """16 hex digits that change with anything in the world."""
    return digest_json(asdict(world))[:16]
