"""What the copies among raw rows would do to a test: of a random split, and of the files as they came."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from finetune_pipeline.data.dedup.row_table import ALL_ROWS, TABLE

_TEST = 0.2


class _Row(msgspec.Struct):
    source: dict[str, Any]


@dataclass(frozen=True)
class Copies:
    """Rows that ask the same, or nearly.

    Attributes:
        rows: How many valid rows there are.
        repeated: How many of them have a copy, exact or near.
        leaked: Share of the test rows of a random split that would have a copy in training.
        across: Texts that stand in two files, for each two: (file, file, texts), the most first.
    """

    rows: int
    repeated: int
    leaked: float
    across: list[tuple[str, str, int]]

    def lines(self) -> list[str]:
        """The same for people."""
        made = [
            f"copies: {self.repeated:,} of {self.rows:,} rows ask what another one asks, or nearly; a random split would have a "
            f"copy of {self.leaked:.0%} of its test rows in training, here copies share a split"
        ]
        return made + [
            f"copies: {n:,} texts stand in {one} and in {other}: a score on one of them says too much after training on the other"
            for one, other, n in self.across[:5]
        ]


def copies_in(clean: Path) -> Copies:
    """Count the copies among the valid rows of a clean_examples artifact, those that were removed too."""
    rows = np.load(clean / TABLE)
    _, number, sizes = np.unique(rows["cluster"], return_inverse=True, return_counts=True)
    others = sizes[number] - 1
    files: dict[int, set[str]] = defaultdict(set)
    decode = msgspec.json.Decoder(_Row).decode
    with (clean / ALL_ROWS).open("rb") as lines:
        for prompt, line in zip(rows["prompt"].tolist(), lines, strict=True):
            files[prompt].add(str(decode(line).source.get("file")))
    across = Counter(pair for names in files.values() if len(names) > 1 for pair in combinations(sorted(names), 2))
    return Copies(
        rows=len(rows),
        repeated=int((others > 0).sum()),
        leaked=float((1 - _TEST**others).mean()) if len(rows) else 0.0,
        across=[(one.removeprefix("raw/"), other.removeprefix("raw/"), n) for (one, other), n in across.most_common()],
    )
