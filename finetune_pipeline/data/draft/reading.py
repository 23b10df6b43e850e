"""Reads raw files of unknown format. Chooses the sheet of a workbook and the place of the rows in a JSON document, and notes its
choice; delimiter, header and encoding are those that the readers detect."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from finetune_pipeline.data.draft.document_rows import is_columns, is_map, rows_path
from finetune_pipeline.data.fields import check_fields
from finetune_pipeline.data.json_lines import decode_line
from finetune_pipeline.data.quoting import quoted, row_finding
from finetune_pipeline.data.readers.any_file import look_at, read_records
from finetune_pipeline.data.readers.containers import with_columns
from finetune_pipeline.data.readers.encoding import other_text
from finetune_pipeline.data.readers.records import RawStream, Record
from finetune_pipeline.data.readers.tables import Dialect
from finetune_pipeline.data.readers.workbooks import sheet_names, sheets_of
from finetune_pipeline.findings import Finding, errors
from finetune_pipeline.spec.loading import validated_spec
from finetune_pipeline.spec.model import TaskSpec

_ROWS_LOOKED_AT = 500
_HEAD_BYTES = 2_000
"""Bytes at the start of a file, by which text without rows is recognised."""
MOST_ROWS = 50_000
"""Rows of a file used to judge its columns; labels are counted over all rows."""
_READABLE_FORMS = "CSV with a header, or as JSON Lines: one object with a text and its answer a line"
_LEAST_ROWS_BELOW = 20
"""With fewer rows below, repeated column names are not looked for."""


class RawRow(NamedTuple):
    """A decoded row. key: that of its list, in a JSON document with several lists."""

    key: str | None
    value: Any


@dataclass
class Reading:
    """How to read a set of files, and their rows.

    Attributes:
        data: Keys of `data` in task.yaml: csv, sheet, and fields.rows.
        rows: Rows of all files, up to MOST_ROWS of each.
        containers, counts: Type and number of rows of each file.
        notes: Choices made, as text.
        problems: Findings about the files.
        bad_documents: Files of one row that cannot be read, with the reason.
    """

    data: dict[str, Any] = field(default_factory=dict)
    rows: list[RawRow] = field(default_factory=list)
    containers: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)
    bad_documents: list[Finding] = field(default_factory=list)

    def refuse(self, rule: str, file: str, message: str, fix: str) -> None:
        """Record why a file cannot be read."""
        self.problems.append(Finding(f"draft.{rule}", "error", file, message, fix))


def spec_of(data: Mapping[str, object], output: Mapping[str, object] | None = None, prompt: str = "-") -> TaskSpec:
    """Return a spec for reading rows before there is a task."""
    values = {"name": "draft", "description": "-", "system_prompt": prompt, "data": dict(data)}
    return validated_spec({**values, "output": dict(output or {"kind": "text"})})


def decoded(record: Record) -> Any:
    """Return a record's value; None if it cannot be read."""
    return decode_line(record.raw, "")[0] if record.encoded else record.value


def read_raw(files: Sequence[tuple[str, Path]], encoding: str | None = None, sheet: str | None = None) -> Reading:
    """Read files of unknown format, each (name, path). encoding, sheet: set by the user."""
    declared = {"csv": {"encoding": encoding} if encoding else None, "sheet": sheet}
    reading = Reading({key: value for key, value in declared.items() if value})
    reading.problems += check_fields(spec_of(reading.data))
    if errors(reading.problems):
        return reading
    for name, path in files:
        container, survey = look_at(path, name, _without_header(reading))
        reading.containers[name] = container.kind
        no_rows = None
        if container.kind in ("csv", "unknown", "json"):
            with RawStream(path, survey.encoding) as stream:
                no_rows = other_text(stream.buffered().read(_HEAD_BYTES))
        if survey.problem:
            reading.problems.append(survey.problem)
        elif no_rows:
            description, fix = no_rows
            reading.refuse("other_text", name, f"the file was not read: it is {description}", fix)
        elif container.kind == "workbook":
            _choose_sheet(path, name, reading)
        elif container.kind == "json" or (container.kind == "json_lines" and survey.lines <= 1):
            _choose_rows(path, name, survey.encoding, reading)
        elif (dialect := container.dialect) is not None and not dialect.problem:  # else the reader reports the problem
            reading.containers[name] = "csv"
            if rows := _first_rows(path, name, reading.data):
                _add_header(dialect.header, rows, name, reading)
        if not errors(reading.problems):
            _add_rows(path, name, reading)
    if are_few(reading.bad_documents, files):
        first = reading.bad_documents[0]
        note = f"{len(reading.bad_documents):,} of {len(files):,} files hold a row that cannot be read and goes into quarantine"
        reading.notes.append(f"{note}; {first.place}: {first.message}")
    else:
        reading.problems += reading.bad_documents
    return reading


def are_few(bad: Sequence[object], files: Sequence[object]) -> bool:
    """Whether there are bad files of one row, and no larger share of all files than a task may lose of its rows by default."""
    return 0 < len(bad) <= spec_of({}).data.max_quarantine_share * len(files)


def _add_rows(path: Path, name: str, reading: Reading) -> None:
    """Add the rows of a file to the reading, or a problem if at least half of them cannot be read."""
    spec = spec_of(reading.data)
    unread: list[Record] = []
    for record in read_records(path, name, spec):
        if record.about == "file":
            known_findings = {(f.rule, f.place) for f in reading.problems}
            reading.problems += [f for f in record.findings if (f.rule, f.place) not in known_findings]
            continue
        reading.counts[name] += 1
        if reading.counts[name] <= MOST_ROWS:
            if (value := decoded(record)) is not None:
                reading.rows.append(RawRow(record.key, value))
            else:
                unread.append(record)
    if unread and len(unread) >= 0.5 * min(reading.counts[name], MOST_ROWS):
        null_row = row_finding("not_an_object", name, "the row is null", "write one object per row")
        first_finding = [*unread[0].findings, *decode_line(unread[0].raw, "")[1], null_row][0]
        message = f"{len(unread):,} of {reading.counts[name]:,} rows cannot be read: {first_finding.message}"
        fix = f"{first_finding.fix}; or export it as {_READABLE_FORMS}"
        problems = reading.bad_documents if reading.counts[name] == 1 else reading.problems
        problems.append(Finding("draft.unreadable", "error", name, message, fix))


def one_spelling(reading: Reading) -> None:
    """Give columns that differ only in the case of letters one name in all rows, with a note: `data.fields` finds them so. Columns
    that one row has side by side stay apart."""
    rows = [row.value for row in reading.rows if isinstance(row.value, dict)]
    counts = Counter(str(key) for row in rows for key in row)
    spellings: dict[str, list[str]] = {}
    for key, _ in counts.most_common():
        spellings.setdefault(key.casefold(), []).append(key)
    renamed = {}
    for first, *others in spellings.values():
        if others and not any(len({first, *others} & row.keys()) > 1 for row in rows):
            renamed.update(dict.fromkeys(others, first))
            reading.notes.append(f"{first} is written {', '.join(others)} in some rows; it is read as one column")
    if renamed:
        reading.rows = [
            row._replace(value={renamed.get(key, key): value for key, value in row.value.items()})
            if isinstance(row.value, dict)
            else row
            for row in reading.rows
        ]


def _without_header(reading: Reading) -> TaskSpec:
    """Return the spec for reading the next file, whose header is detected."""
    csv = {key: value for key, value in reading.data.get("csv", {}).items() if key != "header"}
    return spec_of({**reading.data, "csv": csv})


def _first_rows(path: Path, name: str, data: Mapping[str, Any]) -> list[list[str]]:
    """Read the first complete rows of a table, its header too."""
    spec = spec_of({**data, "csv": {**data.get("csv", {}), "header": False}})
    records = list(islice((r for r in read_records(path, name, spec) if r.about != "file"), _ROWS_LOOKED_AT))
    return [list(r.value.values()) for r in records if isinstance(r.value, dict)]


def _add_header(header: bool, rows: Sequence[Sequence[str]], name: str, reading: Reading) -> None:
    """Declare whether the tables have a header, and note what a person should know about it."""
    earlier_header = reading.data.get("csv", {}).get("header")
    if earlier_header is not None and earlier_header != header:
        message = "some files have a header row and some have none: this one differs from the files before it"
        reading.refuse("headers_differ", name, message, "give every file the same header")
    if not header:
        reading.notes.append(f"{name}: there is no header row; the columns are named c1 to c{len(rows[0])}")
    elif repeated_rows := _count_repeated_headers(rows):
        note = "repeat the column names, as in surveys: remove rows that are no examples"
        reading.notes.append(f"{name}: the first {repeated_rows} rows below the header may {note}")
    reading.data["csv"] = {**reading.data.get("csv", {}), "header": header}


def _count_repeated_headers(rows: Sequence[Sequence[str]]) -> int:
    """Count the rows right below the header that hold no value in any column of numbers and dates."""
    below = rows[4:]
    if len(below) < _LEAST_ROWS_BELOW:
        return 0
    columns = [i for i in range(len(rows[0])) if all(row[i][:1].isdigit() for row in below)]
    return len([*takewhile(lambda row: columns and not any(row[i][:1].isdigit() for i in columns), rows[1:4])])


def _choose_sheet(path: Path, name: str, reading: Reading) -> None:
    """Choose the sheet with the most rows of two or more cells, and the sheets with the same header. Detects the header too."""
    all_sheets = sheet_names(path)
    visible = [s for s, is_visible in all_sheets.items() if is_visible]
    sheets = sheets_of(reading.data.get("sheet")) or visible or [*all_sheets]
    rows_of = {sheet: _first_rows(path, name, {**reading.data, "sheet": sheet}) for sheet in sheets}
    sheet = max(rows_of, key=lambda s: sum(len([c for c in row if c]) > 1 for row in rows_of[s]), default=None)
    if sheet is None or not rows_of[sheet]:
        return  # the reader reports what is wrong
    rows = rows_of[sheet]
    dialect = with_columns(Dialect(), rows, len(rows[0]), _without_header(reading))
    if dialect.problem:
        return
    header = dialect.header
    if len(all_sheets) > 1:
        names = [sorted(rows_of[sheet][0])]
        same_header_sheets = [s for s in sheets if s == sheet or (header and [*map(sorted, rows_of[s][:1])] == names)]
        reading.data["sheet"] = same_header_sheets if len(same_header_sheets) > 1 else sheet
        unread_names = ", ".join(quoted(s) for s in all_sheets if s not in same_header_sheets)
        unread_note = f", and not {unread_names}" if unread_names else ""
        reading.notes.append(f"{name}: {', '.join(map(quoted, same_header_sheets))} of its sheets read{unread_note}")
    _add_header(header, rows, name, reading)


def _choose_rows(path: Path, name: str, encoding: str, reading: Reading) -> None:
    """Find the rows of a document that are neither at the top nor in lists of one kind."""
    with RawStream(path, encoding) as stream:
        text = stream.buffered().read().decode("utf-8-sig", "replace")
    try:
        document = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return  # the reader returns what it can read
    expression = rows_path(document)
    if is_columns(document):
        message = "the document holds one list per column, not one object per row"
        reading.refuse("columns", name, message, "write it row by row (pandas: to_json(orient='records'))")
    elif is_map(document):
        message = "the document is one object of texts and their answers, not a list of rows"
        fix = f"write them as rows: jq 'to_entries | map({{text: .key, label: .value}})' {quoted(path.name)}"
        reading.refuse("map", name, message, fix)
    elif expression:
        fields = reading.data.setdefault("fields", {})
        if fields.get("rows", expression) != expression:
            message = f"the rows are at {expression}, but those of the files before it are at {fields['rows']}"
            reading.refuse("rows_differ", name, message, "make a separate task of each, or give all the same structure")
        fields["rows"] = expression
        reading.notes.append(f"{name}: the rows are at {expression}")
