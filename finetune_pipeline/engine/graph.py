"""The graph of steps: artifact versions derived from the table, and running one step.

Every process can tell, without running anything, which artifacts exist and which are missing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune_pipeline.engine.facts import to_json
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.engine.step import SHARED, Inputs, RunInputs, Step, StepContext, Tool, no_tool
from finetune_pipeline.engine.store import SKIPPED, Artifact, ArtifactStore, Builder
from finetune_pipeline.faults import JobError
from finetune_pipeline.spec.model import Task


class MissingInput(JobError):
    """Raised if an input of a step has not been made, has failed rows, or fails a blocking check."""


class Graph:
    """All steps of a pipeline in topological order."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps: dict[str, Step] = {}
        for step in steps:
            if step.name in self.steps:
                raise ValueError(f"step {step.name} is defined twice")
            if unknown := [name for name in (*step.inputs, *step.follows) if name not in self.steps]:
                raise ValueError(f"step {step.name} needs {', '.join(unknown)}, which must come before it")
            self.steps[step.name] = step

    def versions(self, task: Task, run_inputs: RunInputs, store: ArtifactStore) -> dict[str, str]:
        """Return the version of every step for this task and these inputs. Runs nothing."""
        versions: dict[str, str] = {}
        for step in self.steps.values():
            if step.view_of:
                versions[step.name] = versions[step.view_of]
                continue
            inputs = {need: versions[need] for need in step.needs}
            settings = self._settings(step, task, run_inputs, versions, store)
            versions[step.name] = store.version(step.name, step.code_version, inputs, settings)
        return versions

    def settings(self, name: str, task: Task, run_inputs: RunInputs, store: ArtifactStore) -> Mapping[str, object]:
        """Return the settings that a step's version depends on."""
        return self._settings(self.steps[name], task, run_inputs, self.versions(task, run_inputs, store), store)

    def _settings(
        self, step: Step, task: Task, run_inputs: RunInputs, versions: Mapping[str, str], store: ArtifactStore
    ) -> Mapping[str, object]:
        skipped = self._why_skipped(step, task, versions, store)
        return {SKIPPED: True} if skipped else step.settings(task.spec, run_inputs)

    def _why_skipped(self, step: Step, task: Task, versions: Mapping[str, str], store: ArtifactStore) -> str:
        """Return why a step makes nothing; empty if it is made, or if the step that decides that is not made yet."""
        if step.skipped_by is None:
            return ""
        name, reason = step.skipped_by
        artifact = self._find_version(name, task, versions[name], store)
        return reason(artifact, task.spec) if artifact else ""

    def artifacts(self, task: Task, run_inputs: RunInputs, store: ArtifactStore) -> dict[str, Artifact | None]:
        """Return the artifact of every step, or None if not made yet."""
        return {
            name: self._find_version(name, task, version, store)
            for name, version in self.versions(task, run_inputs, store).items()
        }

    def find(self, name: str, task: Task, run_inputs: RunInputs, store: ArtifactStore) -> Artifact | None:
        """Return one step's artifact, or None if not made yet."""
        return self._find_version(name, task, self.versions(task, run_inputs, store)[name], store)

    def _find_version(self, name: str, task: Task, version: str, store: ArtifactStore) -> Artifact | None:
        step = self.steps[name]
        return store.find(SHARED if step.shared else task.name, step.view_of or name, version)

    def run(
        self,
        name: str,
        task: Task,
        run_inputs: RunInputs,
        store: ArtifactStore,
        launch: Tool = no_tool,
        release: Callable[[Any], object] = no_tool,
        is_valid: Callable[[Artifact], bool] = lambda artifact: True,
        follow: Callable[[Path], None] = lambda folder: None,
    ) -> Artifact:
        """Return a step's artifact, making it if it does not exist yet.

        Args:
            is_valid: Whether the effects of an existing artifact outside the store still exist; if not, it is made again.

        Raises:
            ChangedArtifact: An artifact that the step reads has changed since it was made.
            MissingInput: An input is missing or incomplete, or fails a blocking check.
        """
        step = self.steps[name]
        if step.make is None:
            return self.run(step.inputs[0], task, run_inputs, store, launch, release, is_valid, follow)
        make = step.make
        versions = self.versions(task, run_inputs, store)
        inputs, skipped = self._inputs(step, task, versions, store), self._why_skipped(step, task, versions, store)

        def fill(builder: Builder) -> None:
            self._require_passed_checks(step, task, dict(inputs.items()))
            if skipped:
                builder.facts.update({SKIPPED: skipped, "sentence": skipped})
            else:
                facts = make(StepContext(task, run_inputs, inputs, builder, store, launch, release, follow))
                builder.facts.update(to_json(facts))
            builder.opened = sorted(inputs.opened)

        return store.build(
            SHARED if step.shared else task.name,
            name,
            code_version=step.code_version,
            inputs={need: versions[need] for need in step.needs},
            settings=self._settings(step, task, run_inputs, versions, store),
            make=fill,
            is_valid=lambda artifact: step.is_complete(artifact) and is_valid(artifact),
        )

    def run_to(self, name: str, task: Task, run_inputs: RunInputs, store: ArtifactStore) -> dict[str, Artifact]:
        """Make a step and everything it needs, without Dagster or tools. Returns the artifacts by step.

        Only the blocking checks of steps in `after` run; the caller runs the others.
        """
        return {step: self.run(step, task, run_inputs, store) for step in self.upstream(name)}

    def upstream(self, name: str) -> list[str]:
        """Return a step and everything that it needs, in the order of the graph."""
        needed = {name}
        for step in reversed(list(self.steps.values())):
            if step.name in needed:
                needed |= set(step.inputs)
        return [step for step in self.steps if step in needed]

    def _inputs(self, step: Step, task: Task, versions: dict[str, str], store: ArtifactStore) -> Inputs:
        artifacts = {need: self._find_version(need, task, versions[need], store) for need in step.inputs}
        existing = {need: artifact for need, artifact in artifacts.items() if artifact is not None}
        if missing := [need for need in artifacts if need not in existing]:
            raise MissingInput(
                f"{task.name}/{step.name} needs {', '.join(missing)} of the current data and spec, which "
                f"have not been made. Run `finetune run {task.name}`, or materialize them first."
            )
        failed_rows = {need: self.steps[need].failed(artifact) for need, artifact in existing.items()}
        if incomplete := {need: n for need, n in failed_rows.items() if n}:
            failures = ", ".join(f"{n} rows failed in {need}" for need, n in incomplete.items())
            raise MissingInput(
                f"{task.name}/{step.name} is not made: {failures}. Run `finetune run {task.name}`, or materialize "
                f"{', '.join(incomplete)} again; only rows without an answer are asked."
            )
        return Inputs(existing, store.check)

    def _require_passed_checks(self, step: Step, task: Task, inputs: Mapping[str, Artifact]) -> None:
        """Raise MissingInput if a blocking check of an upstream step fails."""
        for upstream in step.after:
            for check in self.steps[upstream].checks:
                if result := check.holds_back(inputs[upstream], task.spec):
                    why = f"the check {check.name} of {upstream} failed: {result.message}"
                    raise MissingInput(f"{task.name}/{step.name} is not made: {why}")


def pinned_inputs(store: ArtifactStore, task: Task, run_id: str, collect: Callable[[], RunInputs]) -> RunInputs:
    """Return the inputs of a run. Its first process collects and stores them; the others read what it stored."""
    path = store.state_folder(task.name) / "run_inputs" / f"{run_id}.json"
    with store.lock(task.name, "run_inputs"):
        if path.exists():
            return RunInputs(**read_json(path, RunInputs))
        run_inputs = collect()
        write_json(path, asdict(run_inputs))
        return run_inputs
