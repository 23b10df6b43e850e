"""A check: a question about an artifact, whether a "no" stops what lies downstream, and the function that answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.spec.model import TaskSpec


@dataclass(frozen=True)
class Answer:
    """passed, a sentence for people, and the figures behind it. `warns`: this "no" holds nothing back."""

    passed: bool
    message: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    warns: bool = False


@dataclass(frozen=True)
class Check:
    """`blocking` and `advisory` may depend on the spec. `advisory`: a "no" is a warning, not an error. `live`: asked of what
    is so now, in a step of its own and by a sensor, not of the artifact when it is made."""

    name: str
    step: str
    description: str
    judge: Callable[[Artifact, TaskSpec], Answer]
    blocking: bool | Callable[[TaskSpec], bool] = True
    advisory: bool | Callable[[TaskSpec], bool] = False
    live: bool = False

    def blocks(self, spec: TaskSpec) -> bool:
        return self.blocking(spec) if callable(self.blocking) else self.blocking

    def warns(self, spec: TaskSpec) -> bool:
        return self.advisory(spec) if callable(self.advisory) else self.advisory

    def ask(self, artifact: Artifact, spec: TaskSpec) -> Answer:
        """The answer. A fact that is missing or of the wrong type is a "no": a check never fails open."""
        try:
            return self.judge(artifact, spec)
        except (KeyError, TypeError, ValueError, FileNotFoundError) as error:
            return Answer(False, f"could not be judged: {type(error).__name__}: {error}")
