"""The judgement of raw rows: every row is kept as a canonical example, or quarantined with all its reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from finetune_pipeline.data.decoding import decode_line
from finetune_pipeline.data.examples import Example, example_id
from finetune_pipeline.data.fields import Mapped, Mapping, mapping_of
from finetune_pipeline.data.formats import OPTIONAL, read_turns
from finetune_pipeline.data.json_lines import is_blank
from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.data.raw_files import PRODUCTION_FILE
from finetune_pipeline.data.readers.blocks import Block, Record
from finetune_pipeline.data.row_rules import check_row, final_messages
from finetune_pipeline.data.scrubbing import scrub_text
from finetune_pipeline.data.timestamps import read_time
from finetune_pipeline.findings import Finding, errors
from finetune_pipeline.spec import TaskSpec

RAW_SHOWN = 2000
FAST_FROM = 1 << 19
"""Bytes of a block from which sorting out the sound lines first pays for getting ready for it."""
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Checked:
    """The judgement of one row: an example if it may be kept; all findings (warnings too); keys nobody reads; format."""

    example: Example | None
    findings: list[Finding]
    ignored: list[str] = field(default_factory=list)
    shape: str = "unknown"


@dataclass
class Judged:
    """The judgement of one block. Always rows_in == kept + len(quarantine).

    examples: canonical JSON Lines; quarantine: file, line, raw (scrubbed, cut), findings; findings: of kept rows too;
    blank: blank lines; by_rule: findings per rule; labels: kept rows per label; ignored: rows per key that nobody
    reads; shapes: rows per format (mapped: by data.fields).
    """

    examples: bytes = b""
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    rows_in: int = 0
    kept: int = 0
    blank: int = 0
    by_rule: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)


def judge_block(block: Block, spec: TaskSpec, write: bool = True, fast_from: int = FAST_FROM) -> Judged:
    """Judge every row of a block. With `write` off only the judgement is made: no `examples`, and no `raw` in quarantine.

    Lines that are beyond doubt are sorted out first (:mod:`finetune_pipeline.data.sound_lines`) in blocks of at least
    `fast_from` bytes; everything else is judged rule by rule, with the same result.
    """
    judge = _Judge(block.file, spec, write)
    if block.kind == "records":
        for record in block.records:
            judge.record(record)
    elif len(block.data) >= fast_from:
        judge.lines_with_fast_path(block)
    else:
        for line in _lines(block):
            judge.line(*line)
    return judge.done()


def check_line(data: bytes, file: str, number: int, spec: TaskSpec) -> Checked:
    """Judge one non-blank line of a JSON Lines file that stands for one row."""
    return check_record(Record(number, None, data, encoded=True), file, spec, mapping_of(spec))[0]


def check_record(record: Record, file: str, spec: TaskSpec, mapping: Mapping | None) -> list[Checked]:
    """Judge one record: one row, or as many as ``data.fields.each`` makes of it. `mapping`: that of the spec."""
    place = f"{file}:{record.line}"
    value, found = record.value, list(record.findings)
    if record.encoded:
        value, problems, readable = decode_line(record.raw, place, record.at)
        found += problems
        if not readable:
            return [Checked(None, found)]
    elif value is None:
        return [Checked(None, found)]
    if record.flat:
        value = _from_cells(value)
    if mapping is None and not isinstance(value, dict):
        message = f"the row is {quoted(value)}, not an object"
        fix = 'write one object a row: {"text": "…", "label": "…"}'
        return [Checked(None, [*found, Finding("data.not_an_object", "error", place, message, fix)])]
    mapped = mapping.apply(value, file, record.key, place) if mapping else [Mapped(value)]
    return [_check(each, mapping, found, record.line, file, place, spec) for each in mapped]


def _from_cells(row: dict[str, Any]) -> dict[str, Any]:
    """A table's row: an empty cell of an optional column says nothing, tags in one cell are separated by commas."""
    row = {k: v for k, v in row.items() if not (v == "" and k in OPTIONAL)}
    if isinstance(row.get("tags"), str):
        row["tags"] = [t.strip() for t in row["tags"].split(",") if t.strip()]
    return row


def _check(
    mapped: Mapped, mapping: Mapping | None, found: list[Finding], line: int, file: str, place: str, spec: TaskSpec
) -> Checked:
    """Judge a row that is in a known form, or should be."""
    row, found = mapped.row, [*found, *mapped.findings]
    by_fields = mapping is not None and mapping.content
    if mapped.findings:
        return Checked(None, found, mapped.ignored, "mapped" if by_fields else "unknown")
    turns = read_turns(row, spec, place)
    shape = turns.shape if not by_fields else "mapped"
    found += turns.findings
    lossy = any(f.rule == "data.invalid_utf8" for f in found)  # then it was decoding here that put U+FFFD in
    found += [f for f in check_row(row, turns, spec, place) if not (lossy and f.rule == "data.replacement_character")]
    time, problems = read_time(row.get("time"), place)
    found += problems
    ignored = sorted({*turns.ignored, *mapped.ignored})
    if errors(found):
        return Checked(None, found, ignored, shape or "unknown")
    messages = final_messages(turns, spec)
    name = example_id(messages, turns.tools)
    source: dict[str, Any] = {"file": file, "line": line}
    if isinstance(row.get("id"), str) and row["id"] not in ("", name):
        source["id"] = row["id"]
    example = Example(
        name,
        messages,
        messages[-1]["content"] if spec.labels else None,
        row.get("group"),
        row.get("origin") or ("production" if file == PRODUCTION_FILE else "human"),
        source,
        row.get("tags") or [],
        turns.tools,
        time,
        row.get("generator"),
    )
    return Checked(example, found, ignored, shape or "unknown")


def _as_row(finding: Finding) -> dict[str, Any]:
    """Plain JSON of a finding."""
    f = finding
    return {"rule": f.rule, "severity": f.severity, "place": f.place, "message": f.message, "fix": f.fix}


def raw_shown(data: bytes) -> str:
    """The row as quarantine shows it: decoded with replacements, scrubbed, cut. File and line lead to the original."""
    return scrub_text(data[: 4 * RAW_SHOWN].decode("utf-8", "replace"))[:RAW_SHOWN]


def _lines(block: Block) -> Iterator[tuple[int, int, bytes]]:
    """(number, byte offset, bytes) of every line of a block, blank ones too."""
    at = block.start
    ended = block.data[:-1] if block.data.endswith(b"\n") else block.data
    for number, line in enumerate(ended.split(b"\n") if block.data else (), block.first):
        yield number, at, line
        at += len(line) + 1


class _Judge:
    """Collects the judgement of a block."""

    def __init__(self, file: str, spec: TaskSpec, write: bool) -> None:
        self._file, self._spec, self._write = file, spec, write
        self._mapping = mapping_of(spec)
        self.judged = Judged()
        self.rows: list[bytes] = []

    def done(self) -> Judged:
        self.judged.examples = b"".join(self.rows)
        return self.judged

    def line(self, number: int, at: int, data: bytes) -> None:
        """Judge one line."""
        notes: tuple[Finding, ...] = ()
        if number == 1 and data.startswith(_BOM):
            data, at = data[len(_BOM) :], at + len(_BOM)
            message, fix = "the file starts with a byte order mark", "nothing to do; it was left out"
            notes = (Finding("data.byte_order_mark", "note", f"{self._file}:1", message, fix),)
        if is_blank(data):
            self.judged.blank += 1
            return
        self.record(Record(number, None, data.rstrip(b"\r"), notes, at, encoded=True))

    def record(self, record: Record) -> None:
        """Judge one record."""
        judged = self.judged
        for checked in check_record(record, self._file, self._spec, self._mapping):
            judged.rows_in += 1
            judged.shapes[checked.shape] += 1
            judged.ignored.update(checked.ignored)
            told = [_as_row(f) for f in checked.findings]
            judged.findings += told
            judged.by_rule.update(f.rule for f in checked.findings)
            if checked.example is None:
                place = {"file": self._file, "line": record.line}
                raw = raw_shown(record.raw) if self._write else ""
                judged.quarantine.append({**place, "raw": raw, "findings": told})
                continue
            judged.kept += 1
            if checked.example.label is not None:
                judged.labels[checked.example.label] += 1
            if self._write:
                self.rows.append(msgspec.json.encode(checked.example.to_dict()) + b"\n")

    def lines_with_fast_path(self, block: Block) -> None:
        """Judge the lines of a block, those beyond doubt first."""
        from finetune_pipeline.data.sound_lines import sort_out

        sound = sort_out(block, self._spec, self._write)
        if sound is None:
            for each in _lines(block):
                self.line(*each)
            return
        judged = self.judged
        judged.rows_in = judged.kept = sound.count
        judged.labels.update(sound.labels)
        judged.shapes.update(+sound.shapes)
        at, _index = 0, 0  # the doubtful lines take their places among the sound ones
        sound_rows, self.rows = sound.rows, []
        for place, number, offset, line in sound.doubtful:
            self.rows += sound_rows[at:place]
            at = place
            self.line(number, offset, line)
        self.rows += sound_rows[at:]
