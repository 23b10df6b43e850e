"""Makes valid rows ready for comparison, block by block: scrubbed, looked up in benchmarks, as records, sketched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from finetune_pipeline.data.dedup.benchmarks import Benchmarks
from finetune_pipeline.data.dedup.boilerplate import Boilerplate
from finetune_pipeline.data.dedup.near_duplicates import COLUMNS, loose_forms, sketch
from finetune_pipeline.data.dedup.row_table import GONE, ROW, quarantine_row, table_of
from finetune_pipeline.data.examples import Example, decode_examples
from finetune_pipeline.data.json_lines import read_blocks_of_lines
from finetune_pipeline.data.quoting import row_finding
from finetune_pipeline.data.scrub import scrub_example
from finetune_pipeline.data.workers import in_order
from finetune_pipeline.findings import Finding
from finetune_pipeline.progress import tell
from finetune_pipeline.spec import TaskSpec


@dataclass(frozen=True)
class Preparation:
    """What rows are prepared with.

    Attributes:
        spec: The task.
        boilerplate: Left out of the prompts that are compared.
        benchmarks: Rows that repeat one of their items are removed.
        key: Of the fingerprints of what was scrubbed.
    """

    spec: TaskSpec
    boilerplate: Boilerplate
    benchmarks: Benchmarks | None
    key: bytes


@dataclass
class PreparedRows:
    """Rows ready for comparison.

    Attributes:
        lines: The rows as canonical JSON Lines, scrubbed.
        rows: Their records (ROW); those that are removed have the state GONE.
        sketches: Sketches of their prompts.
        scrubbed: What was found, by row and kind: id, source, kind, count, fingerprints.
        quarantine: The rows removed.
        findings: About personal data that stays or goes, and benchmark items.
        matches: Rows that repeat a benchmark item.
    """

    lines: bytes = b""
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, ROW))
    sketches: np.ndarray = field(default_factory=lambda: np.zeros((0, COLUMNS), np.uint32))
    scrubbed: list[dict[str, Any]] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    matches: list[dict[str, Any]] = field(default_factory=list)


def prepare_rows(source: Path, how: Preparation, out: Path) -> PreparedRows:
    """Prepare the rows of an examples file. Their lines go to the file `out`; those of the result are empty."""
    whole = PreparedRows()
    rows, sketches, at = [whole.rows], [whole.sketches], 0
    blocks = read_blocks_of_lines(source)
    with out.open("wb") as lines:
        for block in in_order(partial(prepare_block, how=how), blocks, source.stat().st_size):
            lines.write(block.lines)
            block.rows["start"] += at
            block.rows["end"] += at
            at += len(block.lines)
            rows.append(block.rows)
            sketches.append(block.sketches)
            for name in ("scrubbed", "quarantine", "findings", "matches"):
                getattr(whole, name).extend(getattr(block, name))
            done = sum(map(len, rows))
            tell("clean_examples", f"{done} rows scrubbed and sketched", rows=done)
    whole.rows, whole.sketches = np.concatenate(rows), np.concatenate(sketches)
    return whole


def prepare_block(data: bytes, how: Preparation) -> PreparedRows:
    """Prepare the rows of whole lines of canonical JSON."""
    spec = how.spec
    examples = decode_examples(data, "validated examples")
    lines = data.splitlines(keepends=True)
    prepared = PreparedRows()
    removed: dict[int, Finding] = {}
    for i, example in enumerate(examples):
        changed, counts, fingerprints = scrub_example(example, spec.labels, how.key, spec.data.scrub_names)
        if not counts:
            continue
        prepared.scrubbed += [
            {"id": example.id, "source": example.source, "kind": kind, "count": n, "fingerprints": fingerprints[kind]}
            for kind, n in counts.items()
        ]
        if spec.data.scrub == "replace":
            examples[i] = changed
            lines[i] = msgspec.json.encode(changed.to_dict()) + b"\n"
            continue
        finding = _personal_data(example, counts, spec.data.scrub == "drop")
        prepared.findings.append(finding)
        if finding.severity == "error":
            removed[i] = finding
    matches = how.benchmarks.index.find(examples) if how.benchmarks else {}
    for i, match in matches.items():
        if i not in removed:
            removed[i] = match.finding()
            prepared.findings.append(removed[i])
    prepared.lines = b"".join(lines)
    prepared.rows = table_of(examples, lines, spec.labels)
    prepared.rows["state"][list(removed)] = GONE
    forms = loose_forms([e.user_text for e in examples], how.boilerplate)
    prepared.sketches = sketch(forms, spec.data.near_duplicate_threshold)
    prepared.quarantine = [quarantine_row(examples[i], finding) for i, finding in sorted(removed.items())]
    prepared.matches = [match.to_dict() for match in matches.values()]
    return prepared


def _personal_data(example: Example, counts: Mapping[str, int], drop: bool) -> Finding:
    message = f"personal data or secrets in the text: {', '.join(f'{n} {kind}' for kind, n in counts.items())}"
    fix = "remove them at the source, or set data.scrub: replace"
    return row_finding("personal_data", example.place, message, fix, "error" if drop else "warning")
