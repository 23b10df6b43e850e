"""The valid rows of a stage, scrubbed and ready for comparison. They are stored as columns and sketches, so sets are compared
without decoding their texts again."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from finetune_pipeline.data.dedup.benchmarks import benchmark_index
from finetune_pipeline.data.dedup.boilerplate import Boilerplate
from finetune_pipeline.data.dedup.near_duplicates import COLUMNS, loose_forms, sketch
from finetune_pipeline.data.dedup.text_similarity import exact_form, loosened
from finetune_pipeline.data.examples import ORIGINS, Example, decode_examples
from finetune_pipeline.data.json_lines import read_blocks_of_lines
from finetune_pipeline.data.quoting import RAW_SHOWN, row_finding
from finetune_pipeline.data.scrub import Finder, finder_of, scrub_example
from finetune_pipeline.data.scrub.placeholders import Sample, chosen_samples, samples_of, scrub_keys
from finetune_pipeline.data.workers import in_order
from finetune_pipeline.findings import Finding, Severity
from finetune_pipeline.progress import tell
from finetune_pipeline.spec import TaskSpec

TABLE, ALL_ROWS = "rows.npy", "rows.jsonl"
KEPT, EXACT, NEAR, CONTRADICTION, GONE = range(5)
"""State of a row: kept; exact or near duplicate; contradiction; or removed for another reason (personal data, benchmark item,
reviewer)."""
ROW = np.dtype(
    [
        ("id", "<u8"),  # the example's id as a number
        ("prompt", "<u8"),  # hash of what the user says, in exact form
        ("group", "<u8"),  # hash of the declared group; 0: none
        ("cluster", "<u8"),  # the smallest id in the row's cluster
        ("time", "<f8"),  # seconds since 1970; nan: none
        ("label", "<i4"),  # index in the spec's labels; -1: none
        ("origin", "<u1"),  # index in ORIGINS
        ("state", "<u1"),
        ("start", "<u8"),  # where the row's line begins in rows.jsonl, in bytes
        ("end", "<u8"),
    ]
)
"""A record of ``rows.npy``: one for every valid row, including removed ones."""


def hash_text(text: str) -> int:
    """Return the first 64 bits of the text's SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def prompt_hash(user_text: str) -> int:
    """Return a 64-bit hash of the user's text in exact form, which is equal for rows with the same prompt."""
    return hash_text(exact_form(user_text))


def group_hash(group: str | None) -> int:
    """Return a 64-bit hash of a declared group; 0 without one."""
    return (hash_text(group) or 1) if group else 0  # no group has the hash 0


def _table_of(
    examples: Sequence[Example], prompts: Sequence[str], lines: Sequence[bytes], labels: Sequence[str]
) -> np.ndarray:
    """Return the records (ROW) of examples. prompts: the exact forms of their user texts. lines: the encoded examples. All rows
    have the state KEPT and no cluster yet."""
    rows = np.zeros(len(examples), ROW)
    ranks = {label: i for i, label in enumerate(labels)}
    rows["id"] = [int(e.id, 16) for e in examples]
    rows["prompt"] = [hash_text(form) for form in prompts]
    rows["group"] = [group_hash(e.group) for e in examples]
    rows["time"] = [datetime.fromisoformat(e.time).timestamp() if e.time else np.nan for e in examples]
    rows["label"] = [ranks.get(e.label or "", -1) for e in examples]
    rows["origin"] = [ORIGINS.index(e.origin) for e in examples]
    rows["end"] = np.cumsum([len(line) for line in lines])
    rows["start"][1:] = rows["end"][:-1]
    return rows


def count_values(values: np.ndarray, mask: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    """Count the rows with each value, an index in `names`; -1 is not counted. mask: which rows to count (bool)."""
    counts = np.bincount(values[mask].astype(np.int64) + 1, minlength=len(names) + 1)[1:]
    return {name: int(n) for name, n in zip(names, counts, strict=True)}


@dataclass(frozen=True)
class RowTable:
    """The records (ROW) of a stage's rows, and the file (``rows.jsonl``) with the rows."""

    rows: np.ndarray
    path: Path

    def lines(self, which: np.ndarray) -> bytes:
        """Read the lines of these rows (int64, ascending)."""
        pieces = []
        starts, ends = self.rows["start"][which], self.rows["end"][which]
        is_gap = starts[1:] != ends[:-1]  # rows without a gap are read at once
        begins, stops = starts[np.append(True, is_gap)[: len(which)]], ends[np.append(is_gap, True)[: len(which)]]
        with self.path.open("rb") as handle:
            for start, end in zip(begins.tolist(), stops.tolist(), strict=True):
                handle.seek(start)
                pieces.append(handle.read(end - start))
        return b"".join(pieces)

    def fetch(self, which: np.ndarray) -> list[Example]:
        """Read the examples of these rows (int64), in the given order."""
        order = np.argsort(which, kind="stable")
        examples = decode_examples(self.lines(which[order]), str(self.path))
        return [examples[i] for i in np.argsort(order).tolist()]


def write_kept(table: RowTable, path: Path) -> None:
    """Write the lines of the rows that are kept, in their order."""
    with table.path.open("rb") as lines, path.open("wb") as out:
        out.writelines(compress(lines, (table.rows["state"] == KEPT).tolist()))


def quarantine_row(example: Example, finding: Finding, find: Finder) -> dict[str, Any]:
    """Make a line of ``quarantine.jsonl``; the text is scrubbed and cut."""
    messages = scrub_example(example, find=find)[0].messages
    raw = msgspec.json.encode({"id": example.id, "messages": messages}).decode()[:RAW_SHOWN]
    return {**example.source, "raw": raw, "findings": [finding.to_dict()]}


@dataclass(frozen=True)
class Preparation:
    """Settings of the preparation. boilerplate: removed from prompts before comparison. benchmarks: folder of benchmark files
    (rows that repeat an item are removed). key: for the fingerprints of scrubbed values."""

    spec: TaskSpec
    boilerplate: Boilerplate
    benchmarks: Path | None
    key: bytes


@dataclass
class PreparedRows:
    """Rows ready for comparison.

    Attributes:
        lines: The rows as canonical JSON Lines, scrubbed.
        rows: Their records (ROW); removed rows have the state GONE.
        sketches: Sketches of their prompts.
        normal_keys: Hashes of their prompts' loose forms, boilerplate included (uint64, [n]).
        scrubbed: Scrubbed values by row and kind: id, source, kind, count, fingerprints.
        quarantine: The removed rows.
        findings: Findings about personal data and benchmark items.
    """

    lines: bytes = b""
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, ROW))
    sketches: np.ndarray = field(default_factory=lambda: np.zeros((0, COLUMNS), np.uint32))
    normal_keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    scrubbed: list[dict[str, Any]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def prepare_rows(source: Path, settings: Preparation, out: Path) -> PreparedRows:
    """Prepare the rows of an examples file. Their lines go to the file `out`; `lines` of the result is empty."""
    prepared = PreparedRows()
    columns, offset = {name: [getattr(prepared, name)] for name in ("rows", "sketches", "normal_keys")}, 0
    blocks = read_blocks_of_lines(source)
    with out.open("wb") as lines:
        for block in in_order(partial(prepare_block, settings=settings), blocks, source.stat().st_size):
            lines.write(block.lines)
            block.rows["start"] += offset
            block.rows["end"] += offset
            offset += len(block.lines)
            for name, parts in columns.items():
                parts.append(getattr(block, name))
            for name in ("scrubbed", "samples", "quarantine", "findings"):
                getattr(prepared, name).extend(getattr(block, name))
            rows = sum(map(len, columns["rows"]))
            tell("clean_examples", f"{rows} rows scrubbed and sketched", rows=rows)
    for name, parts in columns.items():
        setattr(prepared, name, np.concatenate(parts))
    return prepared


def prepare_block(data: bytes, settings: Preparation) -> PreparedRows:
    """Prepare rows given as complete lines of canonical JSON."""
    spec = settings.spec
    find, find_formats = finder_of(spec.data), finder_of(spec.data, names=False)
    examples = decode_examples(data, "validated examples")
    lines = data.splitlines(keepends=True)
    prepared = PreparedRows()
    removed: dict[int, Finding] = {}
    samples: list[Sample] = []
    for i, example in enumerate(examples if spec.data.scrub != "warn" else ()):
        if (scrubbed := scrub_keys(example, settings.key, find)) is not example:
            examples[i], lines[i] = scrubbed, msgspec.json.encode(scrubbed) + b"\n"
    for i, example in enumerate(examples):
        changed, counts, replacements = scrub_example(example, spec.labels, settings.key, find)
        if not counts:
            continue
        for kind, n in counts.items():
            fingerprints = [r.fingerprint for r in replacements if r.kind == kind]
            row = {"id": example.id, "source": example.source, "kind": kind, "count": n, "fingerprints": fingerprints}
            prepared.scrubbed.append(row)
        samples += samples_of(example, changed.messages, replacements)
        if spec.data.scrub == "replace":
            examples[i] = changed
            lines[i] = msgspec.json.encode(changed) + b"\n"
            continue
        message = f"personal data or secrets in the text: {', '.join(f'{n} {kind}' for kind, n in counts.items())}"
        fix = "remove them at the source, or set data.scrub: replace"
        severity: Severity = "error" if spec.data.scrub == "drop" else "warning"
        prepared.findings.append(row_finding("personal_data", example.place, message, fix, severity))
        if severity == "error":
            removed[i] = prepared.findings[-1]
    prepared.samples = chosen_samples(samples)
    user_texts = [e.user_text for e in examples]
    exact = [exact_form(text) for text in user_texts]
    index = benchmark_index(settings.benchmarks)
    for i, match in index.find(examples, exact).items() if index else ():
        if i not in removed:
            removed[i] = match.finding()
            prepared.findings.append(removed[i])
    prepared.lines = b"".join(lines)
    prepared.rows = _table_of(examples, exact, lines, spec.labels)
    prepared.rows["state"][list(removed)] = GONE
    prepared.sketches = sketch(loose_forms(user_texts, settings.boilerplate, exact), spec.data.near_duplicate_threshold)
    prepared.normal_keys = np.array([hash_text(loosened(form)) for form in exact], np.uint64)
    prepared.quarantine = [quarantine_row(examples[i], finding, find_formats) for i, finding in sorted(removed.items())]
    return prepared
