"""Parts of the sealed test that must show the gain by themselves: the rows of some raw files (gates.parts)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from finetune_pipeline.evaluation.compare import compare, shared_sources
from finetune_pipeline.evaluation.deciding import decide_gain
from finetune_pipeline.evaluation.result import PartOfTest
from finetune_pipeline.evaluation.result_parts import ModelRow
from finetune_pipeline.evaluation.rivals import BaseAtItsBest
from finetune_pipeline.evaluation.scores import score
from finetune_pipeline.spec.model import TaskSpec

FEWEST = 20
"""Test rows of a part below which nothing is said about it: an interval over fewer spans half the scale."""
THE_REST = "the other rows"

Row = Mapping[str, Any]


def parts_of_test(
    spec: TaskSpec,
    base: BaseAtItsBest,
    candidate: Sequence[Row],
    files: Mapping[str, str],
    level: float,
    sources: Mapping[str, str] | None = None,
) -> list[PartOfTest]:
    """Compare the candidate with the base model at its best on the rows of each glob of gates.parts, and on the rest.

    Every part must show the gain, so each is judged at the whole level: a candidate useless on one of them passes with that
    probability at most (an intersection-union test, Berger 1982).

    Args:
        spec: The task.
        base: The rival, the same on every part; chosen on the whole test.
        candidate: Rows of the candidate.
        files: The raw file of each test example, by id.
        level: Two-sided significance level of a decision.
        sources: What each example was made from, by id, where examples share one.
    """
    patterns = spec.gates.parts
    if not patterns:
        return []
    rest = {i for i, file in files.items() if not any(fnmatch(file, pattern) for pattern in patterns)}
    groups: list[tuple[str | None, set[str]]] = [
        (pattern, {i for i, file in files.items() if fnmatch(file, pattern)}) for pattern in patterns
    ]
    parts = []
    for pattern, ids in [*groups, (None, rest)]:
        after = _rows(candidate, ids)
        rivals = {str(mode): _rows(of, ids) for mode, of in base.answers.items()}
        clusters, decision = shared_sources(after, sources), None
        if pattern is not None and len(after) >= FEWEST:
            metrics, margin = [spec.metric], spec.gates.min_gain
            decision = decide_gain(rivals, after, spec.output, metrics, level=level, margin=margin, clusters=clusters)
        models, compared = {}, None
        if after:
            before, name, confidence = rivals[base.mode], pattern or THE_REST, spec.gates.confidence
            compared = compare(before, after, spec.output, confidence, spec.metric, sources)
            models = {
                "base": _model_row(spec, f"Base at its best, {name}", before),
                "candidate": _model_row(spec, f"Fine-tuned, {name}", after),
            }
        parts.append(PartOfTest(files=pattern, n=len(after), models=models, comparison=compared, decision=decision))
    return parts


def _model_row(spec: TaskSpec, title: str, rows: Sequence[Row]) -> ModelRow:
    scores = score(rows, spec.output, spec.gates.confidence, spec.metric)
    decides = scores["primary"]
    shown = {name: scores[name] for name in ("n", "correct", "accuracy", "interval")}
    value, interval = decides["value"], decides["interval"]
    return ModelRow(title=title, set="test", value=value, value_interval=interval, **shown)


def _rows(rows: Sequence[Row], ids: set[str]) -> list[Row]:
    return sorted((row for row in rows if row["example_id"] in ids), key=lambda row: str(row["example_id"]))
