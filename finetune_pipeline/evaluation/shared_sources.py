"""Test rows that share a source, and what that takes from the intervals of rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.evaluation.correctness import is_right, is_valid
from finetune_pipeline.evaluation.metrics import is_right_or_wrong
from finetune_pipeline.evaluation.result import Sources
from finetune_pipeline.evaluation.statistics import clustered_share
from finetune_pipeline.spec.outputs import AnyOutput

Row = Mapping[str, Any]


def source_of(example: Example) -> str:
    """What the row was made from: its group (dialogue, customer, document, seed of a synthetic row), or else the line
    of the raw file, from which several rows may have been cut."""
    if example.group is not None:
        return f"group {example.group}"
    file, line = example.source.get("file"), example.source.get("line")
    return f"{file}:{line}" if file is not None and line is not None else f"row {example.id}"


def shared_sources(rows: Sequence[Row], sources: Mapping[str, str] | None) -> list[str] | None:
    """The source of every row, or None where no two rows share one. Raises ValueError when a row has none."""
    if sources is None:
        return None
    if missing := sorted(row["example_id"] for row in rows if row["example_id"] not in sources):
        raise ValueError(f"no source is known for {len(missing)} test examples, {missing[:3]}")
    of_rows = [sources[row["example_id"]] for row in rows]
    return of_rows if len(set(of_rows)) < len(of_rows) else None


def count_sources(clusters: Sequence[str] | None, n: int) -> Sources:
    """Count the sources of `n` rows. `clusters`: of :func:`shared_sources`."""
    if clusters is None:
        return Sources(rows=n, sources=n, largest=min(n, 1), shared=False)
    return Sources(rows=n, sources=len(set(clusters)), largest=max(Counter(clusters).values()), shared=True)


def widen_rates(
    scores: dict[str, Any], rows: Sequence[Row], output: AnyOutput, clusters: Sequence[str], confidence: float
) -> None:
    """Put clustered intervals in the place of plain ones: right answers, valid answers; adds `design_effect`."""
    right = clustered_share([float(is_right(row, output)) for row in rows], clusters, confidence)
    valid = clustered_share([float(is_valid(row, output)) for row in rows], clusters, confidence)
    scores["interval"], scores["design_effect"] = right["interval"], right["design_effect"]
    scores["valid"] |= {"interval": valid["interval"], "design_effect": valid["design_effect"]}
    if is_right_or_wrong(scores["primary"]["name"]):
        scores["primary"]["interval"] = right["interval"]
