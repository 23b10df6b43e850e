"""What the copies among raw rows would do to a test: of a random split, and of the files as they came."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from finetune_pipeline.data.dedup.row_table import ALL_ROWS, TABLE
from finetune_pipeline.data.examples import stream_examples

_TEST = 0.2


@dataclass(frozen=True)
class Copies:
    """Rows that ask the same, or nearly.

    Attributes:
        repeated: How many of the valid rows have a copy, exact or near.
        leaked: Share of the test rows of a random split that would have a copy in training.
        across: Texts that stand in two files, for each two: (file, file, texts), the most first.
    """

    rows: int
    repeated: int
    leaked: float
    across: list[tuple[str, str, int]]

    def lines(self) -> list[str]:
        asked = f"copies: {self.repeated:,} of {self.rows:,} rows ask what another one asks, or nearly; "
        leaked = f"a random split would have a copy of {self.leaked:.0%} of its test rows in training, "
        too_much = "a score on one of them says too much after training on the other"
        across = (f"copies: {n:,} texts stand in {a} and in {b}: {too_much}" for a, b, n in self.across[:5])
        return [f"{asked}{leaked}here copies share a split", *across]


def copies_in(clean: Path) -> Copies:
    """Count the copies among the valid rows of a clean_examples artifact, those that were removed too."""
    rows = np.load(clean / TABLE)
    _, number, sizes = np.unique(rows["cluster"], return_inverse=True, return_counts=True)
    others = sizes[number] - 1
    files: dict[int, set[str]] = defaultdict(set)
    for prompt, example in zip(rows["prompt"].tolist(), stream_examples(clean / ALL_ROWS), strict=True):
        files[prompt].add(str(example.source.get("file")).removeprefix("raw/"))
    across = Counter(pair for names in files.values() for pair in combinations(sorted(names), 2))
    leaked = float((1 - _TEST**others).mean()) if len(rows) else 0.0
    return Copies(len(rows), int((others > 0).sum()), leaked, [(*pair, n) for pair, n in across.most_common()])
