"""The report's part on benchmarks: rows that repeated one of their items and were left out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.data.dedup.benchmarks import MATCHES, Item, Match, load_benchmarks
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.data.quality.sample import part
from finetune_pipeline.findings import Finding

LISTED = 200


def benchmark_report(raw: Path | None, clean: Path, rows: int) -> dict[str, Any] | None:
    """The part, from the matches the cleaning step noted; None where the task names no benchmarks."""
    benchmarks = load_benchmarks(raw)
    if benchmarks is None:
        return None
    return contamination([Match(**row) for row in read_rows(clean / MATCHES)], benchmarks.index.items, rows)


def contamination(matches: Sequence[Match], items: Sequence[Item], rows: int) -> dict[str, Any]:
    """The part, of the matches of `rows` training rows.

    Returns:
        benchmarks: {file, items, repeated (items), rows}; matches: up to 200 of {id, place, file, line, how, covered};
        rows; repeated.
    """
    if not items:
        message = "not asked: data.benchmarks names no file"
        return part(True, message, applies=False, benchmarks=[], matches=[], rows=rows, repeated=0)
    sizes = Counter(item.file for item in items)
    repeated: dict[str, set[int]] = defaultdict(set)
    for match in matches:
        repeated[match.file].add(match.line)
    by_file = Counter(match.file for match in matches)
    findings = []
    for name in sorted(by_file):
        told = f"{by_file[name]:,} training rows repeat {len(repeated[name]):,} of the {sizes[name]:,} items of {name}"
        fix = "remove these rows from training; a score on this benchmark would measure memory"
        place = next(m.place for m in matches if m.file == name)
        findings.append(Finding("quality.contamination", "warning", place, told, fix))
    message = "; ".join(f.message for f in findings)
    return part(
        not matches,
        message or f"none of {rows:,} training rows repeats one of {len(items):,} items",
        findings=findings,
        benchmarks=[
            {"file": name, "items": n, "repeated": len(repeated[name]), "rows": by_file[name]}
            for name, n in sorted(sizes.items())
        ],
        matches=[m.to_dict() for m in matches[:LISTED]],
        rows=rows,
        repeated=len(matches),
    )
