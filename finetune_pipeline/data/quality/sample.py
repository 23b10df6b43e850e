"""Which rows are looked at when there are too many, and how a part of the report is written down."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.findings import Finding, as_rows

SAMPLE = 20_000
"""Above this many rows, analyses whose cost is more than counting look at so many."""
PLACES = 20
"""Rows named beside a finding."""


def hash_order(name: str, salt: str) -> int:
    """A number in [0, 2^64) that depends on nothing but the name: an order that new rows do not disturb."""
    return int.from_bytes(hashlib.blake2b(f"{salt}\n{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest())


def chosen(examples: Sequence[Example], limit: int = SAMPLE, salt: str = "quality") -> list[Example]:
    """All examples, or the `limit` first by hash of their id, in their own order."""
    if len(examples) <= limit:
        return list(examples)
    order = sorted(range(len(examples)), key=lambda i: (hash_order(examples[i].id, salt), i))
    return [examples[i] for i in sorted(order[:limit])]


@dataclass
class Gathered:
    """What one pass over any number of rows leaves: counts of all, and a sample of up to 20,000 by hash of the id.

    labels, origins, generators (of synthetic rows): counts; synthetic: the synthetic rows; assigned: rows with a split;
    train: a sample of the training rows (of those with a split; of all when no row has one), `train_rows` how many.
    """

    rows: int = 0
    labels: Counter[str | None] = field(default_factory=Counter)
    origins: Counter[str] = field(default_factory=Counter)
    generators: Counter[str] = field(default_factory=Counter)
    synthetic: list[Example] = field(default_factory=list)
    sample: list[Example] = field(default_factory=list)
    assigned: int = 0
    train: list[Example] = field(default_factory=list)
    train_rows: int = 0


class _Lowest:
    """The `limit` items of a stream with the lowest hash, given back in the order of the stream."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.kept: list[tuple[int, int, Example]] = []
        self.highest, self.seen = 1 << 64, 0

    def add(self, order: int, example: Example) -> None:
        self.seen += 1
        if order < self.highest:
            self.kept.append((order, self.seen, example))
            if len(self.kept) >= 2 * self.limit:
                self._cut()

    def _cut(self) -> None:
        self.kept = sorted(self.kept, key=lambda k: k[:2])[: self.limit]
        if len(self.kept) == self.limit:
            self.highest = self.kept[-1][0]

    def rows(self) -> list[Example]:
        self._cut()
        return [e for _, _, e in sorted(self.kept, key=lambda k: k[1])]


def gather(examples: Iterable[Example], assignments: Mapping[str, str], limit: int = SAMPLE) -> Gathered:
    """One pass over the rows; only the samples and the synthetic rows are held in memory."""
    told = Gathered()
    whole, train = _Lowest(limit), _Lowest(limit)
    for e in examples:
        order = hash_order(e.id, "quality")
        told.rows += 1
        told.labels[e.label] += 1
        told.origins[e.origin] += 1
        if e.origin == "synthetic":
            told.generators[e.generator or "unknown"] += 1
            told.synthetic.append(e)
        told.assigned += e.id in assignments
        whole.add(order, e)
        if not assignments or assignments.get(e.id) == "train":
            train.add(order, e)
    told.sample, told.train, told.train_rows = whole.rows(), train.rows(), train.seen
    return told


def sampled(seen: int, of: int) -> dict[str, Any]:
    """What is said when not all rows were looked at; nothing when they were."""
    return {"sampled": seen, "of": of} if seen < of else {}


def named(examples: Iterable[Example]) -> list[dict[str, str]]:
    """Place and id of the first rows."""
    return [{"place": e.place, "id": e.id} for e in islice(examples, PLACES)]


def part(
    passed: bool, message: str, *, blocking: bool = False, findings: Sequence[Finding] = (), **details: Any
) -> dict[str, Any]:
    """One part of the report: whether all is well, a sentence for people, whether a "no" stops training, figures."""
    return {"passed": passed, "message": message, "blocking": blocking, **details, "findings": as_rows(findings)}
