"""Samples of rows for analyses that need not see all of them, and the form of a part of the report."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
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
    """What one pass over any number of rows leaves.

    Attributes:
        rows: Number of rows.
        labels: Rows per label (None: rows without one).
        origins: Rows per origin.
        generators: Synthetic rows per generator.
        synthetic: The synthetic rows.
        sample: Up to 20,000 rows by hash of the id.
        train: The training rows among the sample (all of it when no row has a split).
        train_rows: Number of training rows.
    """

    rows: int = 0
    labels: Counter[str | None] = field(default_factory=Counter)
    origins: Counter[str] = field(default_factory=Counter)
    generators: Counter[str] = field(default_factory=Counter)
    synthetic: list[Example] = field(default_factory=list)
    sample: list[Example] = field(default_factory=list)
    train: list[Example] = field(default_factory=list)
    train_rows: int = 0


def gather(examples: Iterable[Example], assignments: Mapping[str, str], limit: int = SAMPLE) -> Gathered:
    """One pass over the rows; only the sample and the synthetic rows are held in memory."""
    gathered = Gathered()

    def trains(e: Example) -> bool:
        return not assignments or assignments.get(e.id) == "train"

    def ordered() -> Iterator[tuple[int, int, Example]]:
        for e in examples:
            gathered.rows += 1
            gathered.labels[e.label] += 1
            gathered.origins[e.origin] += 1
            gathered.train_rows += trains(e)
            if e.origin == "synthetic":
                gathered.generators[e.generator or "unknown"] += 1
                gathered.synthetic.append(e)
            yield hash_order(e.id, "quality"), gathered.rows, e

    lowest = nsmallest(limit, ordered())
    gathered.sample = [e for _, _, e in sorted(lowest, key=lambda row: row[1])]
    gathered.train = [e for e in gathered.sample if trains(e)]
    return gathered


def sampled(seen: int, of: int) -> dict[str, Any]:
    """What is said when not all rows were looked at; nothing when they were."""
    return {"sampled": seen, "of": of} if seen < of else {}


def named(examples: Iterable[Example]) -> list[dict[str, str]]:
    """Place and id of the first rows."""
    return [{"place": e.place, "id": e.id} for e in islice(examples, PLACES)]


def part(
    passed: bool, message: str, *, blocking: bool = False, findings: Sequence[Finding] = (), **details: Any
) -> dict[str, Any]:
    """One part of the report: whether all is well, a sentence for people, whether a "no" stops training, figures. Details
    of :func:`sampled` are said in the sentence, too."""
    if "sampled" in details:
        message += f" (looked at {details['sampled']:,} of {details['of']:,} rows, chosen by hash)"
    return {"passed": passed, "message": message, "blocking": blocking, **details, "findings": as_rows(findings)}
