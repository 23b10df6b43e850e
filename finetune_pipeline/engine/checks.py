"""Checks: a question about an artifact, the function that answers it, and whether a failure blocks the steps downstream."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.escaping import printable
from finetune_pipeline.spec.model import TaskSpec

Action = Literal["block", "fail", "warn"]
"""What a failure does: it blocks the steps downstream, or is only shown, as an error or as a warning."""


@dataclass(frozen=True)
class CheckResult:
    """The result of a check, with its numbers. warns: this failure is only a warning and does not block."""

    passed: bool
    message: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    warns: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", printable(str(self.message)))  # it may quote labels and keys


@dataclass(frozen=True)
class Check:
    """A named question about a step's artifact.

    Attributes:
        name: Unique within the step.
        description: What is true when the check passes.
        on_failure: What a failure does; a function if the spec decides.
        live: About the model in service: run by its own job and sensor, not when the artifact is made.
        asked: Whether a spec asks for it; if not, it passes, and is not shown.
    """

    name: str
    description: str
    judge: Callable[[Artifact, TaskSpec], CheckResult]
    on_failure: Action | Callable[[TaskSpec], Action] = "block"
    live: bool = False
    asked: Callable[[TaskSpec], bool] = lambda spec: True

    def action(self, spec: TaskSpec) -> Action:
        return self.on_failure(spec) if callable(self.on_failure) else self.on_failure

    def blocks(self, spec: TaskSpec) -> bool:
        return self.action(spec) == "block"

    def ask(self, artifact: Artifact, spec: TaskSpec) -> CheckResult:
        """Run the check. A fact that is missing or has the wrong type is a failure: a check never fails open. Of a step that made
        nothing (Step.skipped_by) there is nothing to ask."""
        if artifact.skipped:
            return CheckResult(True, f"not asked: {artifact.skipped}")
        try:
            return self.judge(artifact, spec)
        except (KeyError, TypeError, ValueError, FileNotFoundError) as error:
            return CheckResult(False, f"could not be judged: {type(error).__name__}: {error}")

    def holds_back(self, artifact: Artifact, spec: TaskSpec) -> CheckResult | None:
        """Return the result if it blocks the steps downstream, else None."""
        if self.live or not self.blocks(spec):
            return None
        answer = self.ask(artifact, spec)
        return None if answer.passed or answer.warns else answer


def check(
    description: str,
    *,
    name: str | None = None,
    on_failure: Action | Callable[[TaskSpec], Action] = "block",
    live: bool = False,
) -> Callable[[Callable[[Artifact, TaskSpec], CheckResult]], Check]:
    """Decorator that turns a function into a check of the same name."""

    def decorate(judge: Callable[[Artifact, TaskSpec], CheckResult]) -> Check:
        return Check(name or judge.__name__, description, judge, on_failure, live)

    return decorate
