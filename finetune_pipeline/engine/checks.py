"""Checks: a question about an artifact, the function that answers it, and whether a "no" blocks the steps downstream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.spec.model import TaskSpec

_BySpec = bool | Callable[[TaskSpec], bool]


@dataclass(frozen=True)
class CheckResult:
    """The answer to a check, with the numbers behind it. warns: a "no" is a warning this time, and stops nothing."""

    passed: bool
    message: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    warns: bool = False


@dataclass(frozen=True)
class Check:
    """A named question about a step's artifact.

    Attributes:
        name: Unique within the step.
        description: What holds when the check passes.
        blocking: Whether a "no" stops the steps downstream.
        advisory: Whether a "no" is a warning rather than an error.
        live: Asked of what serves now, by a job and a sensor of its own, not of the artifact when it is made.
    """

    name: str
    description: str
    judge: Callable[[Artifact, TaskSpec], CheckResult]
    blocking: _BySpec = True
    advisory: _BySpec = False
    live: bool = False

    def blocks(self, spec: TaskSpec) -> bool:
        return self.blocking(spec) if callable(self.blocking) else self.blocking

    def warns(self, spec: TaskSpec) -> bool:
        return self.advisory(spec) if callable(self.advisory) else self.advisory

    def ask(self, artifact: Artifact, spec: TaskSpec) -> CheckResult:
        """The answer. A fact that is missing or of the wrong type is a "no": a check never fails open."""
        try:
            return self.judge(artifact, spec)
        except (KeyError, TypeError, ValueError, FileNotFoundError) as error:
            return CheckResult(False, f"could not be judged: {type(error).__name__}: {error}")

    def holds_back(self, artifact: Artifact, spec: TaskSpec) -> CheckResult | None:
        """The answer where it blocks the steps downstream, else None."""
        if self.live or not self.blocks(spec):
            return None
        answer = self.ask(artifact, spec)
        return None if answer.passed or answer.warns or self.warns(spec) else answer


def check(
    description: str,
    *,
    name: str | None = None,
    blocking: _BySpec = True,
    advisory: _BySpec = False,
    live: bool = False,
) -> Callable[[Callable[[Artifact, TaskSpec], CheckResult]], Check]:
    """Decorator that turns a function into a check of the same name."""

    def of(judge: Callable[[Artifact, TaskSpec], CheckResult]) -> Check:
        return Check(name or judge.__name__, description, judge, blocking, advisory, live)

    return of
