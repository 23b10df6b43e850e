"""The data_quality report: every part, in the order people read them, and all findings together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.balance import class_balance, origins, size_rules
from finetune_pipeline.data.quality.consistency import consistency
from finetune_pipeline.data.quality.contamination import contamination
from finetune_pipeline.data.quality.noise import label_noise
from finetune_pipeline.data.quality.sample import gather
from finetune_pipeline.data.quality.synthetic import review_sample, synthetic_rows, to_review_lines
from finetune_pipeline.data.quality.tokens import token_counts
from finetune_pipeline.planning.prices import load_prices
from finetune_pipeline.planning.tokens import TokenCounter
from finetune_pipeline.spec.model import SyntheticSpec, TaskSpec

PARTS = ("size", "balance", "origins", "synthetic", "consistency", "noise", "contamination", "tokens")


def data_quality(
    examples: Iterable[Example],
    assignments: Mapping[str, str],
    clusters: Mapping[str, str],
    decisions: Mapping[str, str],
    spec: TaskSpec,
    tokenizer: Path | None = None,
    benchmarks: Mapping[str, Any] | None = None,
    *,
    unreviewed: Iterable[Example] | None = None,
    prices: Path | None = None,
) -> dict[str, Any]:
    """Everything there is to say about a set of examples that no single row shows. Plain JSON, deterministic.

    One pass over `examples`, which may be a stream: counts are of all rows, and the rest is asked of 20,000 rows chosen by
    hash where there are more (each such part says so: sampled, of).

    examples: after review; assignments: {id: split}; clusters: {id: near-duplicate cluster}; decisions: {id: keep, drop or
    relabel}; tokenizer: folder of the base model (token counts are not asked without it); benchmarks: the part that
    contamination.contamination made; unreviewed: the rows before review, for the synthetic sample (a dropped row must
    count as rejected) - the examples when not given; prices: another price list than the shipped one.

    Each of PARTS has passed, message (one sentence), blocking, and findings; `findings` holds those of all parts.
    """
    counter = TokenCounter(tokenizer) if tokenizer is not None else None
    all_rows = gather(examples, assignments)
    some, total = all_rows.sample, all_rows.rows
    before, before_total = (all_rows.synthetic, total) if unreviewed is None else _synthetic(unreviewed)
    parts: dict[str, Any] = {
        "size": size_rules(all_rows.labels, spec),
        "balance": class_balance(all_rows.labels, spec),
        "origins": origins(all_rows.origins, all_rows.generators),
        "synthetic": synthetic_rows(before, clusters, decisions, spec, before_total),
        "consistency": consistency(some, spec, total),
        "noise": label_noise(some, clusters, spec, of=total),
        "contamination": dict(benchmarks) if benchmarks is not None else contamination([], [], all_rows.train_rows),
        "tokens": token_counts(all_rows.train, counter, spec, load_prices(prices), all_rows.train_rows),
    }
    return {
        "rows": total,
        **parts,
        "passed": all(parts[name]["passed"] for name in PARTS),
        "blocked_by": [name for name in PARTS if parts[name]["blocking"] and not parts[name]["passed"]],
        "findings": [finding for name in PARTS for finding in parts[name]["findings"]],
    }


def _synthetic(rows: Iterable[Example]) -> tuple[list[Example], int]:
    kept, total = [], 0
    for e in rows:
        total += 1
        if e.origin == "synthetic":
            kept.append(e)
    return kept, total


def write_review_sample(
    path: Path,
    examples: Iterable[Example],
    clusters: Mapping[str, str],
    decisions: Mapping[str, str],
    spec: SyntheticSpec,
) -> int:
    """Write the synthetic rows that still wait for a decision as JSON Lines for people to fill in. Returns their number.

    examples: the rows before review.
    """
    lines = to_review_lines(e for e in review_sample(_synthetic(examples)[0], clusters, spec) if e.id not in decisions)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), "utf-8", newline="\n")
    return len(lines)
