"""The validation step: turns raw rows into canonical examples, or puts them into quarantine with all their findings."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from finetune_pipeline.data.examples import Example, example_id, place_of
from finetune_pipeline.data.fields import FieldMapping, Mapped, mapping_of, read_time
from finetune_pipeline.data.formats import read_turns
from finetune_pipeline.data.formats.base import OPTIONAL
from finetune_pipeline.data.json_lines import decode_line
from finetune_pipeline.data.losses import Losses
from finetune_pipeline.data.names import leaves_out
from finetune_pipeline.data.quoting import RAW_SHOWN, key_name, quoted, row_finding
from finetune_pipeline.data.raw_files import FILES, MADE_FILES, PRODUCTION_FILE
from finetune_pipeline.data.readers.any_file import read_records
from finetune_pipeline.data.readers.encoding import Survey
from finetune_pipeline.data.readers.records import Record
from finetune_pipeline.data.scrub import finder_of, scrub_text
from finetune_pipeline.data.validate.row_rules import check_row, final_messages
from finetune_pipeline.data.workers import in_order
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.findings import Finding, Severity, errors, most_first
from finetune_pipeline.progress import tell
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline.spec.data import FieldsSpec

_LABELS_SHOWN = 20
"""Number of unknown labels in the facts."""
_BLOCK_BYTES = 8 << 20
_COUNTERS = ("by_rule", "labels", "ignored", "shapes", "lost", "unknown")


Block = tuple[str, list[Record]]
"""A raw file's name, and the rows of it that one process validates at a time."""


class ValidatedRow(NamedTuple):
    """The result for one row.

    Attributes:
        example: None if the row is quarantined.
        findings: All findings, warnings and notes too.
        ignored: Keys that nothing reads.
        shape: The row's format; ``mapped`` if `data.fields` locates its texts.
        label: The label of a quarantined row, if readable.
    """

    example: Example | None
    findings: list[Finding]
    ignored: Sequence[str] = ()
    shape: str = "unknown"
    label: str | None = None


class Unread(Facts, frozen=True, kw_only=True):
    """A finding about an unreadable or odd part of a file. about: as in :class:`~.readers.records.Record`."""

    about: str
    rule: str
    severity: Severity
    place: str
    message: str
    fix: str

    @property
    def finding(self) -> Finding:
        return Finding(self.rule, self.severity, self.place, self.message, self.fix)


class ValidatedFile(Facts, frozen=True, kw_only=True):
    """Rows of one raw file."""

    file: str
    rows_in: int
    kept: int
    quarantined: int


class Validated(Facts, frozen=True, kw_only=True):
    """Facts of validated_examples: always rows_in == kept + quarantined.

    Attributes:
        by_rule, shapes, ignored_keys: Findings per rule; rows per format, and per key that nothing reads.
        labels, labels_lost, labels_unknown: Rows per label: kept; in quarantine; with a label that the spec does not name.
        losses: Rows lost so far; those that an annotator rejected are not lost.
    """

    rows_in: int
    kept: int
    quarantined: int
    quarantined_share: float
    by_rule: dict[str, int]
    shapes: dict[str, int]
    labels: dict[str, int]
    files: list[ValidatedFile]
    ignored_keys: dict[str, int]
    labels_lost: dict[str, int]
    labels_unknown: dict[str, int]
    unread: list[Unread]
    losses: Losses


@dataclass
class ValidatedBlock:
    """The result for one block of a file. Always rows_in == kept + len(quarantine).

    Attributes:
        examples: Canonical JSON Lines of the rows kept.
        quarantine: Each row's file, line, raw text (scrubbed, cut) and findings.
        by_rule: Findings of all rows per rule.
        labels, lost, unknown: Rows per label: kept; not kept; with a label that the spec does not name.
        ignored: Rows per key that nothing reads.
        shapes: Rows per format.
    """

    file: str = ""
    examples: bytes = b""
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    rows_in: int = 0
    kept: int = 0
    by_rule: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    unread: list[Unread] = field(default_factory=list)


def validation_settings(spec: TaskSpec) -> dict[str, object]:
    reading = {"format", "fields", "roles", "csv", "sheet", "max_unpacked_gib", "inject", "max_chars", "min_chars"}
    data = spec.data.model_dump(include=reading | {"scrub_region"})
    return {"output": spec.output.model_dump(), "system_prompt": spec.system_prompt, **data}


def validate(raw: Path, spec: TaskSpec, out: Path, surveys: Mapping[str, Survey] | None = None) -> Validated:
    """Validate every row of the files in ``raw/files``. surveys: of these files, by name, if known.

    Writes ``examples.jsonl``, ``quarantine.jsonl`` (file, line, raw, findings) and ``findings.jsonl``.
    """
    out.mkdir(parents=True, exist_ok=True)
    folder = raw / FILES
    paths = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    total_bytes = sum(p.stat().st_size for p in paths.values())
    files = {name: Counter(rows_in=0, kept=0, quarantined=0) for name in paths}
    totals = ValidatedBlock(labels=Counter(dict.fromkeys(spec.labels, 0)))
    known = surveys or {}
    records = ((name, read_records(path, name, spec, known.get(name))) for name, path in paths.items())
    blocks = (block for name, of_file in records for block in in_blocks(of_file, name))
    with (
        (out / "examples.jsonl").open("wb") as examples,
        (out / "quarantine.jsonl").open("wb") as quarantine,
        (out / "findings.jsonl").open("wb") as findings,
    ):
        encode_lines = msgspec.json.Encoder().encode_lines
        for result in in_order(partial(validate_block, spec=spec), blocks, total_bytes):
            examples.write(result.examples)
            quarantine.write(encode_lines(result.quarantine))
            findings.write(encode_lines(result.findings))
            counts = {"rows_in": result.rows_in, "kept": result.kept, "quarantined": len(result.quarantine)}
            files[result.file].update(counts)
            totals.unread += result.unread
            for name in _COUNTERS:
                getattr(totals, name).update(getattr(result, name))
            totals.rows_in += result.rows_in
            tell("validated_examples", f"{totals.rows_in} rows validated", rows=totals.rows_in)
    rows_in, kept, quarantined = (sum(f[name] for f in files.values()) for name in ("rows_in", "kept", "quarantined"))
    unknown_labels: Counter[str] = Counter()
    for label, n in totals.unknown.most_common(_LABELS_SHOWN):
        unknown_labels[quoted(label, find=finder_of(spec.data, names=False))] += n  # labels may be equal once scrubbed
    lost = {label: totals.lost[label] for label in totals.labels}
    label_rows = {label: n + lost[label] for label, n in totals.labels.items()}
    unwanted = totals.by_rule["data.rejected_row"]
    return Validated(
        rows_in=rows_in,
        kept=kept,
        quarantined=quarantined,
        quarantined_share=round(quarantined / max(1, rows_in), 6),
        by_rule=most_first(totals.by_rule),
        shapes=most_first(totals.shapes),
        labels=dict(totals.labels),
        files=[ValidatedFile(file=name, **counts) for name, counts in files.items()],
        ignored_keys=dict(sorted(totals.ignored.items())),
        labels_lost=dict(totals.lost),
        labels_unknown=dict(unknown_labels),
        unread=totals.unread,
        losses=Losses(rows_in, {"validation": quarantined - unwanted}, lost, label_rows),
    )


def in_blocks(records: Iterable[Record], file: str, size: int = _BLOCK_BYTES) -> Iterator[Block]:
    """Group the records of a file into blocks of about `size` bytes."""
    block: list[Record] = []
    length = 0
    for record in records:
        block.append(record)
        length += len(record.raw)
        if length >= size:
            yield file, block
            block, length = [], 0
    if block:
        yield file, block


def validate_block(block: Block, spec: TaskSpec) -> ValidatedBlock:
    """Validate the rows of a block, and count findings, labels, formats and unread keys."""
    file, records = block
    result = ValidatedBlock(file)
    lines: list[bytes] = []
    if file in MADE_FILES:  # canonical already, whatever the form of the raw files
        canonical = {"format": "auto", "fields": FieldsSpec()}
        spec = spec.model_copy(update={"data": spec.data.model_copy(update=canonical)})
    mapping, find = mapping_of(spec), finder_of(spec.data, names=False)
    for record in records:
        is_about_file = record.about == "file"
        if is_about_file and file in MADE_FILES and record.findings[0].rule == "data.no_rows":
            continue  # there may be no corrections, and no answer of the teacher that is kept
        validated = (
            [ValidatedRow(None, [*record.findings])] if is_about_file else validate_record(record, file, spec, mapping)
        )
        for row in validated:
            findings = [f.to_dict() for f in row.findings]
            if spec.data.scrub_region:  # quotes in messages are scrubbed already, except for national numbers
                findings = [{**f, "message": scrub_text(f["message"], find)} for f in findings]
            result.findings += findings
            if record.about != "row":
                result.unread += [
                    Unread.of({"about": record.about, **f})
                    for f in findings
                    if is_about_file or f["severity"] == "error"
                ]
            if is_about_file:
                continue
            result.rows_in += 1
            result.shapes[row.shape] += 1
            if row.ignored:
                result.ignored.update(row.ignored)
            if row.example is None:
                # a character takes up to four bytes
                raw_text = scrub_text(record.raw[: 4 * RAW_SHOWN].decode("utf-8", "replace"), find)[:RAW_SHOWN]
                result.quarantine.append({**_source(record, file), "raw": raw_text, "findings": findings})
                if row.label is not None:
                    counter = result.lost if row.label in spec.labels else result.unknown
                    counter[row.label] += 1
                continue
            result.kept += 1
            if row.example.label is not None:
                result.labels[row.example.label] += 1
            lines.append(msgspec.json.encode(row.example) + b"\n")
    result.examples = b"".join(lines)
    result.by_rule.update(f["rule"] for f in result.findings)
    return result


def validate_record(record: Record, file: str, spec: TaskSpec, mapping: FieldMapping | None) -> list[ValidatedRow]:
    """Validate one record: one row, or as many as ``data.fields.each`` makes of it. mapping: from the spec's `data.fields`."""
    source = _source(record, file)
    place, findings = place_of(source), list(record.findings)
    if record.encoded:
        value, json_findings, readable = decode_line(record.raw, place, record.at)
        findings += json_findings
    else:
        value, readable = record.value, record.value is not None
    if not readable:
        return [ValidatedRow(None, findings)]
    if not isinstance(value, dict) and not (mapping and (mapping.content or "each" in mapping.getters)):
        message = f"the row is {quoted(value)}, not an object"
        fix = 'write one object per row, such as {"text": "…", "label": "…"}, or map the fields in data.fields'
        return [ValidatedRow(None, [*findings, row_finding("not_an_object", place, message, fix)])]
    rows = mapping.apply(value, file, record.key, place) if mapping else [Mapped(value, raw=value)]
    if record.flat:
        rows = [replace(row, row=_clean_cells(row.row)) for row in rows]
    by_fields = mapping is not None and mapping.content
    return [
        _reject_left_out(_validate_mapped(row, by_fields, findings, source, place, spec), row.raw, place)
        for row in rows
    ]


def _reject_left_out(row: ValidatedRow, raw: Any, place: str) -> ValidatedRow:
    """Put a row into quarantine that an annotator left out by a key that nothing else reads, or whose written answer has
    `label: false`. raw: the row before mapping."""
    if not isinstance(raw, dict) or row.example is None:
        return row
    ignored_items = raw.items() if row.ignored else ()  # key_name takes time
    rejecting_keys = [key for key, value in ignored_items if key_name(key) in row.ignored and leaves_out(key, value)]
    is_bad = "label" in raw and str(raw["label"]).casefold() == "false"
    if is_bad and row.example.label is None and ("label" in row.ignored or row.shape != "mapped"):
        rejecting_keys.append("label")
    if not rejecting_keys:
        return row
    reason = raw[rejecting_keys[0]]
    if isinstance(reason, list):
        reason = reason[0]
    shown_value = "false" if reason is False else quoted(reason)
    message = f"an annotator left the row out: `{key_name(rejecting_keys[0])}` is {shown_value}"
    finding = row_finding("rejected_row", place, message, "remove it, or the key if it says something else")
    return row._replace(example=None, findings=[*row.findings, finding])


def _served_answer(mapped: Mapped, place: str) -> list[Finding]:
    """Refuse a line of a served model's log without `origin` whose answer is the model's `output`, even where a person corrected
    it."""
    raw = mapped.raw
    if not isinstance(raw, dict) or "origin" in mapped.row or not {"model_version", "output"} <= raw.keys():
        return []
    fix = 'move the file into logs/, where corrections become rows, or add "origin": "synthetic" to its rows'
    message = f"the answer in `output` is that of the model {quoted(raw['model_version'])}, which no person has written"
    return [row_finding("served_answer", place, message, fix)]


def _clean_cells(row: dict[str, Any]) -> dict[str, Any]:
    """Clean a table's row: drop empty cells of optional columns, and split tags in one cell at commas."""
    row = {k: v for k, v in row.items() if not (v == "" and k in OPTIONAL)}
    if isinstance(row.get("tags"), str):
        row["tags"] = [t.strip() for t in row["tags"].split(",") if t.strip()]
    return row


def _validate_mapped(
    mapped: Mapped, by_fields: bool, findings: list[Finding], source: dict[str, object], place: str, spec: TaskSpec
) -> ValidatedRow:
    """Check a mapped row, and build its example unless it has errors. by_fields: `data.fields` locates all texts."""
    row, all_findings = mapped.row, [*findings, *mapped.findings]
    if mapped.findings:
        return ValidatedRow(None, all_findings, mapped.ignored, "mapped" if by_fields else "unknown")
    turns = read_turns(row, spec, place)
    shape = "mapped" if by_fields else turns.shape or "unknown"
    time, time_findings = read_time(row.get("time"), place)
    all_findings += turns.findings + check_row(row, turns, spec, place) + time_findings
    if not by_fields and "output" not in turns.ignored:
        all_findings += _served_answer(mapped, place)
    if all_findings and "data.invalid_utf8" in [f.rule for f in all_findings]:  # U+FFFD then comes from decoding
        all_findings = [f for f in all_findings if f.rule != "data.replacement_character"]
    ignored = sorted({*turns.ignored, *mapped.ignored}) if mapped.ignored else turns.ignored
    if all_findings and errors(all_findings):
        last = turns.messages[-1] if turns.messages else {"role": ""}
        has_label = spec.labels and last["role"] == "assistant"
        return ValidatedRow(None, all_findings, ignored, shape, last["content"] if has_label else None)
    messages = final_messages(turns, spec)
    row_id = example_id(messages, turns.tools)
    if isinstance(row.get("id"), str) and row["id"] not in ("", row_id):
        source = {**source, "id": row["id"]}
    label = messages[-1]["content"] if spec.labels else None
    origin = row.get("origin") or ("production" if source["file"] == PRODUCTION_FILE else "human")
    tags, group, generator = row.get("tags") or [], row.get("group"), row.get("generator")
    example = Example(row_id, messages, label, group, origin, source, tags, turns.tools, time, generator)
    return ValidatedRow(example, all_findings, ignored, shape)


def _source(record: Record, file: str) -> dict[str, object]:
    source = {"file": file, "line": record.line, "item": record.item, "sheet": record.key if record.flat else None}
    return {key: value for key, value in source.items() if value is not None}
