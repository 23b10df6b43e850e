"""Which prompts are read behind one shared beginning.

Most prompts of a task begin with its system prompt. A single one that does not (a perturbed row without it, a chat of
another origin) must not take the shared beginning away from all the others: prompts are put into families.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

Ids = list[int]
_WORTH = 0.9
"""Prompts leave a family where at most this share of their tokens is then to be read: smaller batches cost something."""
_DEPTH = 8
"""Beginnings within beginnings that are looked for."""


def common_prefix(prompts: Sequence[Ids]) -> int:
    """Number of leading tokens all prompts share, at least one token of every prompt being left out."""
    if not prompts:
        return 0
    low, high = min(prompts), max(prompts)  # in lexical order, what these two share all share
    limit = min(len(p) for p in prompts) - 1
    return next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if i >= limit or a != b), max(limit, 0))


def families(prompts: Sequence[Ids]) -> list[list[int]]:
    """Places of prompts that are read behind one beginning, ascending within each family; the largest family first.

    Prompts must not be empty. A family costs its beginning once, and what follows of each prompt. Where prompts part for the
    first time, those that go on together leave the family if that costs clearly less, beginning and all.
    """
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i], i))
    found = _parted(prompts, order, _DEPTH)[1] if order else []
    return sorted(map(sorted, found), key=lambda rows: (-len(rows), rows[0]))


def _parted(prompts: Sequence[Ids], places: list[int], depth: int) -> tuple[int, list[list[int]]]:
    """(tokens to read, families) of the prompts at `places`, which are in lexical order."""
    ends = (places[0], places[-1], min(places, key=lambda i: len(prompts[i])))
    shared = common_prefix([prompts[i] for i in ends])
    left: list[int] = []
    cost = 0
    found: list[list[int]] = []
    for _, group in groupby(places, key=lambda i: prompts[i][: shared + 1]):
        together = list(group)
        inside = sum(len(prompts[i]) - shared for i in together)
        if depth and 1 < len(together) < len(places):
            alone, parts = _parted(prompts, together, depth - 1)
            if alone <= _WORTH * inside:
                cost, found = cost + alone, found + parts
                continue
        left += together
        cost += inside
    return (cost + shared, [*found, left]) if left else (cost, found)
