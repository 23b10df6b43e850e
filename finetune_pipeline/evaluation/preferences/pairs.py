"""Two answers to one request, what somebody prefers, and the interface of whoever does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

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
