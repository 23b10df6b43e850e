"""Pairs of answers to one request, ratings of them by people, and preference by similarity to the reference."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from finetune_pipeline.data.dedup.semantic import embed
from finetune_pipeline.evaluation.correctness import scored_text

Choice = Literal["a", "b", "tie", "failed"]
"""Which answer is better; `failed`: nobody knows, because asking failed. Never a guess."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A request, its right answer as far as known, and two answers to compare."""

    id: str
    request: str
    reference: str
    a: str
    b: str

    def swapped(self) -> Pair:
        """The same pair with the answers' places exchanged."""
        return replace(self, a=self.b, b=self.a)


class Preference(Protocol):
    """Somebody who says which of two answers is better."""

    @property
    def name(self) -> str: ...

    def choose(self, pairs: Sequence[Pair]) -> list[Choice]:
        """One choice a pair, in order, seeing `a` first."""
        ...


def other(choice: Choice) -> Choice:
    """The choice, told for the swapped pair."""
    swap: dict[Choice, Choice] = {"a": "b", "b": "a"}
    return swap.get(choice, choice)


@dataclass(frozen=True, slots=True)
class BothWays:
    """A pair asked in both orders. first, second: choices told for the pair as it stands; choice: theirs where they
    agree, `tie` where they contradict one another, `failed` where either is."""

    first: Choice
    second: Choice

    @property
    def choice(self) -> Choice:
        if "failed" in (self.first, self.second):
            return "failed"
        return self.first if self.first == self.second else "tie"


def both_ways(who: Preference, pairs: Sequence[Pair]) -> list[BothWays]:
    """Every pair asked twice, the second time with the answers' places exchanged."""
    first = who.choose(pairs)
    second = [other(choice) for choice in who.choose([pair.swapped() for pair in pairs])]
    return [BothWays(x, y) for x, y in zip(first, second, strict=True)]


PREFERS: dict[str, Choice] = {"base": "a", "candidate": "b", "tie": "tie"}


def prediction_pairs(
    base: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]], texts: Mapping[str, str]
) -> list[Pair]:
    """A pair an example (a: base, b: candidate), by id. A generation that failed is an empty answer."""
    after = {row["example_id"]: row for row in candidate}
    return [
        Pair(i, texts.get(i, ""), str(row["gold"]), scored_text(row), scored_text(after[i]))
        for row in sorted(base, key=lambda row: row["example_id"])
        if (i := row["example_id"]) in after
    ]


def read_ratings(path: Path, known: Collection[str]) -> tuple[dict[str, Choice], list[str]]:
    """(choice by example id, problems with their line). The last rating of an example counts; bad lines lose no others."""
    choices: dict[str, Choice] = {}
    problems = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, prefers = row["id"], row["prefers"]
        except (ValueError, KeyError, TypeError):
            problems.append(f"{path.name}:{number}: write an object with id and prefers")
            continue
        if prefers not in PREFERS:
            problems.append(f"{path.name}:{number}: prefers is {prefers!r:.40}; write one of {', '.join(PREFERS)}")
        elif name not in known:
            problems.append(f"{path.name}:{number}: {name!r:.40} is no example of the test")
        else:
            choices[name] = PREFERS[prefers]
    return choices, problems


def likeness(answers: Sequence[str], references: Sequence[str], model: str = "hashed") -> list[float]:
    """Cosine similarity (-1 to 1) of each answer with its reference; model: see data.semantic."""
    if not answers:
        return []
    vectors = embed([*answers, *references], model)
    given, right = vectors[: len(answers)], vectors[len(answers) :]
    return [float(value) for value in (given * right).sum(axis=1)]


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
