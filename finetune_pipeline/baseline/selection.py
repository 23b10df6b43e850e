"""Choosing the best of several prompts without the winner's curse.

What is chosen on one fold is scored on the other (two-fold cross-fitting; Cawley and Talbot 2010, JMLR 11).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.predictions import in_order
from finetune_pipeline.spec.model import TaskSpec

Row = Mapping[str, Any]
FOLDS = (0, 1)


@dataclass(frozen=True)
class Chosen:
    """What cross-fitting chose.

    Attributes:
        names: The candidate chosen for each fold, by the rows of the other one.
        rows: For every example the answer of the candidate chosen without it, in the order of example ids.
    """

    names: tuple[str, str]
    rows: list[dict[str, Any]]


def fold_of(example_id: str) -> int:
    """The fold of a row: a hash of its id, so that new rows leave old ones where they are."""
    return hashlib.sha256(f"fold:{example_id}".encode("utf-8", "surrogatepass")).digest()[0] % len(FOLDS)


def in_fold(rows: Sequence[Row], fold: int) -> list[dict[str, Any]]:
    return [dict(row) for row in rows if fold_of(str(row["example_id"])) == fold]


def cross_fitted(spec: TaskSpec, candidates: Mapping[str, Sequence[Row]]) -> Chosen:
    """Choose on one fold and answer on the other, both ways. Ties go to the candidate named first. Raises ValueError where there is
    no candidate; all are on the same examples."""
    if not candidates:
        raise ValueError("nothing to choose from")
    metric = METRICS[spec.metric]
    names, answers = [], []
    for fold in FOLDS:
        seen = {name: in_fold(rows, 1 - fold) for name, rows in candidates.items()}
        best = max(seen, key=lambda name: metric.rank(metric.value(seen[name], spec.output)))
        names.append(best)
        answers += in_fold(candidates[best], fold)
    return Chosen((names[0], names[1]), in_order(answers))
