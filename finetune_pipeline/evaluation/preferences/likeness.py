"""Prefers the answer whose embedding is nearer to that of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_pipeline.data.dedup.semantic import embed
from finetune_pipeline.evaluation.preferences.pairs import Choice, Pair


def likeness(answers: Sequence[str], references: Sequence[str], model: str = "hashed") -> list[float]:
    """Cosine similarity (-1 to 1) of each answer with its reference; model: see data.semantic."""
    if not answers:
        return []
    vectors = embed([*answers, *references], model)
    mine, theirs = vectors[: len(answers)], vectors[len(answers) :]
    return [float(value) for value in (mine * theirs).sum(axis=1)]


@dataclass(frozen=True, slots=True)
class Likeness:
    """Embedding similarity as a preference; differences below `margin` are ties. Has no say about facts: a wrong number
    leaves an embedding almost where it was."""

    model: str = "hashed"
    margin: float = 0.02

    @property
    def name(self) -> str:
        return f"likeness ({self.model})"

    def choose(self, pairs: Sequence[Pair]) -> list[Choice]:
        references = [pair.reference for pair in pairs]
        a, b = (likeness([getattr(p, side) for p in pairs], references, self.model) for side in ("a", "b"))
        return ["tie" if abs(x - y) < self.margin else "a" if x > y else "b" for x, y in zip(a, b, strict=True)]
