"""The first part of cleaning: replaces personal data and secrets in all rows, or puts rows that hold some into quarantine."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.data.examples import Example, decode_examples
from finetune_pipeline.data.json_lines import read_blocks_of_lines
from finetune_pipeline.data.quoting import RAW_SHOWN, row_finding
from finetune_pipeline.data.scrub import Finder, finder_of, scrub_example
from finetune_pipeline.data.scrub.placeholders import Sample, chosen_samples, samples_of, scrub_keys
from finetune_pipeline.data.workers import in_order
from finetune_pipeline.findings import Finding, Severity
from finetune_pipeline.progress import tell
from finetune_pipeline.spec import TaskSpec


@dataclass
class ScrubbedRows:
    """The result of scrubbing.

    Attributes:
        lines: The rows as canonical JSON Lines, with placeholders; none once they are written.
        rows: Number of rows.
        values: Scrubbed values by row and kind: id, source, kind, count, fingerprints.
        samples: Texts before and after.
        findings: Findings about personal data, if it is not replaced.
        removed: Lines of ``quarantine.jsonl`` by row number.
    """

    lines: bytes = b""
    rows: int = 0
    values: list[dict[str, Any]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    removed: dict[int, dict[str, Any]] = field(default_factory=dict)


def scrub_rows(source: Path, spec: TaskSpec, key: bytes, out: Path) -> ScrubbedRows:
    """Scrub the rows of an examples file, and write them to the file `out`. key: for the fingerprints of scrubbed values."""
    scrubbed = ScrubbedRows()
    blocks = read_blocks_of_lines(source)
    with out.open("wb") as lines:
        for block in in_order(partial(scrub_block, spec=spec, key=key), blocks, source.stat().st_size):
            lines.write(block.lines)
            scrubbed.removed |= {scrubbed.rows + row: line for row, line in block.removed.items()}
            scrubbed.rows += block.rows
            for name in ("values", "samples", "findings"):
                getattr(scrubbed, name).extend(getattr(block, name))
            tell("clean_examples", f"{scrubbed.rows} rows scrubbed", rows=scrubbed.rows)
    return scrubbed


def scrub_block(data: bytes, spec: TaskSpec, key: bytes) -> ScrubbedRows:
    """Scrub rows given as complete lines of canonical JSON."""
    find, find_formats = finder_of(spec.data), finder_of(spec.data, names=False)
    lines, scrubbed = [], ScrubbedRows()
    samples: list[Sample] = []
    for row, (example, line) in enumerate(_rows(data, spec, key, find)):
        changed, counts, replacements = scrub_example(example, spec.labels, key, find)
        lines.append(line)
        if not counts:
            continue
        for kind, n in counts.items():
            fingerprints = [r.fingerprint for r in replacements if r.kind == kind]
            value = {"id": example.id, "source": example.source, "kind": kind, "count": n, "fingerprints": fingerprints}
            scrubbed.values.append(value)
        samples += samples_of(example, changed.messages, replacements)
        if spec.data.scrub == "replace":
            lines[row] = msgspec.json.encode(changed) + b"\n"
            continue
        message = f"personal data or secrets in the text: {', '.join(f'{n} {kind}' for kind, n in counts.items())}"
        fix = "remove them at the source, or set data.scrub: replace"
        severity: Severity = "error" if spec.data.scrub == "drop" else "warning"
        scrubbed.findings.append(row_finding("personal_data", example.place, message, fix, severity))
        if severity == "error":
            scrubbed.removed[row] = quarantine_row(example, scrubbed.findings[-1], find_formats)
    scrubbed.lines, scrubbed.rows = b"".join(lines), len(lines)
    scrubbed.samples = chosen_samples(samples)
    return scrubbed


def _rows(data: bytes, spec: TaskSpec, key: bytes, find: Finder) -> Iterator[tuple[Example, bytes]]:
    """Yield each row with its line; personal data in its keys (group, ids) is replaced by fingerprints."""
    examples = decode_examples(data, "validated examples")
    for example, line in zip(examples, data.splitlines(keepends=True), strict=True):
        scrubbed = example if spec.data.scrub == "warn" else scrub_keys(example, key, find)
        yield scrubbed, line if scrubbed is example else msgspec.json.encode(scrubbed) + b"\n"


def quarantine_row(example: Example, finding: Finding, find: Finder) -> dict[str, object]:
    """Make a line of ``quarantine.jsonl``; the text is scrubbed and cut."""
    messages = scrub_example(example, find=find)[0].messages
    raw = msgspec.json.encode({"id": example.id, "messages": messages}).decode()[:RAW_SHOWN]
    return {**example.source, "raw": raw, "findings": [finding.to_dict()]}
