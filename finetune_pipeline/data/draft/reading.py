"""How raw files of unknown make are read: delimiter, header, sheet, and where in a JSON document the rows are. The
readers refuse what can be read in two ways; here the likelier way is taken, and said."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from finetune_pipeline.data.draft.document_rows import is_columns, is_map, rows_path
from finetune_pipeline.data.fields import check_fields
from finetune_pipeline.data.formats.tool_calls import unpacked
from finetune_pipeline.data.json_lines import decode_line
from finetune_pipeline.data.names import is_known_name
from finetune_pipeline.data.quoting import quoted, row_finding
from finetune_pipeline.data.readers.any_file import look_at, read_records
from finetune_pipeline.data.readers.containers import Container
from finetune_pipeline.data.readers.encoding import other_text
from finetune_pipeline.data.readers.records import RawStream, Record
from finetune_pipeline.data.readers.workbooks import sheet_names, sheets_of
from finetune_pipeline.findings import Finding, errors
from finetune_pipeline.spec.loading import validated_spec
from finetune_pipeline.spec.model import TaskSpec

_LOOKED_AT = 500
_HEAD = 2_000
"""Bytes of a file by which a text that is no table is known."""
_DEEPEST = 4
MOST_ROWS = 50_000
"""Rows of a file used to judge its columns; labels are counted over all rows."""
_FORMS = "CSV with a header, or as JSON Lines: one object with a text and its answer a line"
_ENOUGH = 20
"""Rows for each value, on average, of a column whose values all come back."""
_SINGLE = 0.8
"""If fewer of a table's lines are complete rows, other delimiters and quoting are tried."""


class RawRow(NamedTuple):
    """A decoded row from a reader. key: of its list, in a JSON document with several lists."""

    key: str | None
    value: Any


@dataclass
class Reading:
    """How to read a set of files, and their rows.

    Attributes:
        data: Keys of `data` in task.yaml: csv, sheet, and fields.rows.
        rows: Of all files, up to MOST_ROWS of each.
        containers, counts: By file: its type, and its number of rows.
        notes: Choices made, as text.
        problems: Findings about the files.
    """

    data: dict[str, Any] = field(default_factory=dict)
    rows: list[RawRow] = field(default_factory=list)
    containers: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)

    def refuse(self, rule: str, file: str, message: str, fix: str) -> None:
        """Record why a file cannot be read."""
        self.problems.append(Finding(f"draft.{rule}", "error", file, message, fix))


def spec_of(data: Mapping[str, Any], output: Mapping[str, Any] | None = None, prompt: str = "-") -> TaskSpec:
    """A spec for reading rows before there is a task."""
    values = {"name": "draft", "description": "-", "system_prompt": prompt, "data": dict(data)}
    return validated_spec({**values, "output": dict(output or {"kind": "text"})})


def decoded(record: Record) -> Any:
    """A record's value; None if it cannot be read."""
    return decode_line(record.raw, "")[0] if record.encoded else record.value


def read_raw(files: Sequence[tuple[str, Path]], encoding: str | None = None, sheet: str | None = None) -> Reading:
    """Read files of unknown format, each (name, path). encoding, sheet: set by the user."""
    given = {"csv": {"encoding": encoding} if encoding else None, "sheet": sheet}
    reading = Reading({key: value for key, value in given.items() if value})
    reading.problems += check_fields(spec_of(reading.data))
    if errors(reading.problems):
        return reading
    for name, path in files:
        container, seen = look_at(path, name, spec_of(reading.data))
        reading.containers[name] = container.kind
        with RawStream(path, seen.encoding) as stream:
            other = other_text(stream.buffered().read(_HEAD)) if container.kind in ("csv", "unknown", "json") else None
        if seen.problem:
            reading.problems.append(seen.problem)
        elif other:
            reading.refuse("other_text", name, f"the file was not read: it is {other[0]}", other[1])
        elif container.kind == "workbook":
            _choose_sheet(path, name, reading)
        elif container.kind == "json" or (container.kind == "json_lines" and seen.lines <= 1):
            _choose_rows(path, name, seen.encoding, reading)
        elif container.dialect is not None:
            _choose_dialect(path, name, container, reading)
        if not errors(reading.problems):
            _add_rows(path, name, reading)
    reading.rows = with_json_texts(reading.rows)
    if _is_half_a_batch([row.value for row in reading.rows]):
        message = "requests of a batch API and their responses stand in rows of their own"
        fix = "join them by id: jq -c -s 'group_by(.custom_id)[] | add' requests.jsonl responses.jsonl > joined.jsonl"
        reading.refuse("batch", ", ".join(name for name, _ in files[:3]), message, fix)
    return reading


def _is_half_a_batch(rows: Sequence[Any]) -> bool:
    """Whether each row is a request or a response of a batch API, and none is both."""

    def is_half(row: Mapping[str, Any]) -> bool:
        held = {key for key, value in row.items() if isinstance(value, dict)}
        return held.isdisjoint(("body", "params")) != held.isdisjoint(("response", "result"))

    return bool(rows) and all(isinstance(row, dict) and "custom_id" in row and is_half(row) for row in rows)


def with_json_texts(rows: Sequence[RawRow]) -> list[RawRow]:
    """The rows with those columns decoded whose every text is an object or a list: that is how `data.fields` sees them."""
    plain = {path for row in rows for path, text in _texts_in(row.value, ()) if isinstance(unpacked(text), str)}

    def decoded_in(value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, dict):
            return {k: decoded_in(v, (*path, k)) for k, v in value.items()}
        return value if path in plain or not path else unpacked(value)

    return [RawRow(row.key, decoded_in(row.value, ())) for row in rows]


def _texts_in(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """(keys, text) of the texts in an object and in the objects below it."""
    for key, item in value.items() if isinstance(value, dict) and len(path) < _DEEPEST else ():
        if isinstance(item, str) and item.strip():
            yield (*path, key), item
        yield from _texts_in(item, (*path, key))


def _add_rows(path: Path, name: str, reading: Reading) -> None:
    spec = spec_of(reading.data)
    unread: list[Record] = []
    for record in read_records(path, name, spec):
        if record.about == "file":
            known = {(f.rule, f.place) for f in reading.problems}
            reading.problems += [f for f in record.findings if (f.rule, f.place) not in known]
            continue
        reading.counts[name] += 1
        if reading.counts[name] <= MOST_ROWS:
            if (value := decoded(record)) is not None:
                reading.rows.append(RawRow(record.key, value))
            else:
                unread.append(record)
    if unread and len(unread) >= 0.5 * min(reading.counts[name], MOST_ROWS):
        nothing = row_finding("not_an_object", name, "the row is null", "write one object per row")
        first = [*unread[0].findings, *decode_line(unread[0].raw, "")[1], nothing][0]
        message = f"{len(unread):,} of {reading.counts[name]:,} rows cannot be read: {first.message}"
        reading.refuse("unreadable", name, message, f"{first.fix}; or export it as {_FORMS}")


def _first_rows(path: Path, name: str, data: Mapping[str, Any]) -> tuple[list[list[str]], int]:
    """(cells of the first complete rows, number of rows read), read as a table without a header."""
    spec = spec_of({**data, "csv": {**data.get("csv", {}), "header": False}})
    records = list(islice((r for r in read_records(path, name, spec) if r.about != "file"), _LOOKED_AT))
    return [list(r.value.values()) for r in records if isinstance(r.value, dict)], len(records)


def _choose_dialect(path: Path, name: str, container: Container, reading: Reading) -> None:
    """Choose the delimiter and quoting that give the most complete rows, and whether the first row is a header."""
    own = {k: v for k, v in reading.data.get("csv", {}).items() if k != "header"}
    delimiters = [own, *({**own, "delimiter": d} for d in (",", ";", "\t", "|") if "delimiter" not in own)]
    best: tuple[float, dict[str, Any], list[list[str]]] = (0.0, own, [])
    for csv in [*delimiters, *({**some, "quote": "none"} for some in delimiters if "quote" not in own)]:
        if best[0] > _SINGLE and (best[1] == own or "quote" in csv):
            break
        rows, looked_at = _first_rows(path, name, {**reading.data, "csv": csv})
        fit = _fit(rows, looked_at)
        if fit > best[0] + 0.05:
            best = (fit, csv, rows)
    fit, csv, rows = best
    if fit < 0.5 and (not rows or (container.dialect and container.dialect.problem)):
        reading.refuse("no_table", name, f"the file was not read: {container.why}", f"save it as {_FORMS}")
        reading.containers[name] = "unknown"
        return
    if csv != own:
        chosen = {k: v for k, v in csv.items() if k not in own}
        reading.notes.append(f"{name}: read with {', '.join(f'{k} {v!r}' for k, v in chosen.items())}")
    reading.containers[name] = "csv"  # also where a guess alone was not sure of the delimiter
    reading.data["csv"] = {**csv, "header": _header(rows, name, reading)}


def _fit(rows: Sequence[Sequence[str]], looked_at: int) -> float:
    """How well a delimiter fits: the share of complete rows with two or more cells. One that gives a header fits better,
    one followed by spaces, like commas in prose, fits worse."""
    if not rows or max(map(len, rows)) < 2:
        return 0.0
    cells = [cell for row in rows for cell in row[1:]]
    spaced = sum(cell.startswith(" ") for cell in cells) / len(cells)
    return len(rows) / max(1, looked_at) - 0.3 * spaced + 0.1 * is_header(rows[0], rows[1:])


def _header(rows: Sequence[Sequence[str]], name: str, reading: Reading) -> bool:
    header = is_header(rows[0], rows[1:])
    before = reading.data.get("csv", {}).get("header")
    if before is not None and before != header:
        message = "unlike the files before it, its first row does (or does not) name the columns"
        reading.refuse("headers_differ", name, message, "give every file the same header")
    if not header:
        reading.notes.append(f"{name}: there is no header row; the columns are named c1 to c{len(rows[0])}")
    elif again := _named_again(rows):
        note = "hold names again, as in surveys: remove what is no example"
        reading.notes.append(f"{name}: the first {again} rows below the header may {note}")
    return header


def _named_again(rows: Sequence[Sequence[str]]) -> int:
    """How many rows below the header hold no value in any column of numbers and dates."""
    below = rows[4:]
    full = [i for i in range(len(rows[0])) if len(below) >= _ENOUGH and all(row[i][:1].isdigit() for row in below)]
    return len([*takewhile(lambda row: full and not any(row[i][:1].isdigit() for i in full), rows[1:4])])


def is_header(first: Sequence[str], behind: Sequence[Sequence[str]]) -> bool:
    """Whether a table's first row names its columns, judged by the cells below."""
    cells = [cell.strip().strip("\"'") for cell in first]
    behind = [row for row in behind if list(row) != list(first)]  # joined files repeat it
    columns = [[row[i].strip() for row in behind if i < len(row)] for i in range(len(cells))]
    named = [cell for cell in cells if cell]
    if not named or any(len(c) > 60 or _is_number(c) for c in named):
        return False
    recurs = any(cell and cell in column for cell, column in zip(cells, columns, strict=True))
    if not recurs and any(is_known_name(cell) for cell in named):
        return True
    if recurs or any(len(c.split()) > 5 or c[-1:] in ".!?" for c in named):
        few = (set(column) for column in columns if len(column) >= _ENOUGH * len(set(column)))
        return not recurs and any(len(values) > 1 for values in few)  # labels below, and the first row holds none
    numbers = [sum(map(_is_number, c)) >= 0.8 * len(c) > 0 for c in columns]
    words = [sum(len(cell.split()) for cell in c) / len(c) if c else 0.0 for c in columns]
    longest = max(range(len(cells)), key=lambda i: words[i])
    return any(numbers) or len(cells[longest].split()) <= max(2, words[longest] / 2) or not behind


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?\d+([.,]\d+)*%?", text.strip()))


def _choose_sheet(path: Path, name: str, reading: Reading) -> None:
    """Choose the sheet with the most rows of two or more cells and those of the same header, and whether there is one."""
    all_sheets = sheet_names(path)
    sheets = sheets_of(reading.data.get("sheet")) or [s for s, seen in all_sheets.items() if seen] or [*all_sheets]
    rows_of = {sheet: _first_rows(path, name, {**reading.data, "sheet": sheet})[0] for sheet in sheets}
    sheet = max(rows_of, key=lambda s: sum(len([c for c in row if c]) > 1 for row in rows_of[s]), default=None)
    if sheet is None or not rows_of[sheet]:
        return  # the reader says what is wrong
    header = _header(rows_of[sheet], name, reading)
    if len(all_sheets) > 1:
        names = [sorted(rows_of[sheet][0])]
        alike = [s for s in sheets if s == sheet or (header and [*map(sorted, rows_of[s][:1])] == names)]
        reading.data["sheet"] = alike if len(alike) > 1 else sheet
        others = ", ".join(quoted(s) for s in all_sheets if s not in alike)
        unread = f", and not {others}" if others else ""
        reading.notes.append(f"{name}: {', '.join(map(quoted, alike))} of its sheets read{unread}")
    reading.data["csv"] = {**reading.data.get("csv", {}), "header": header}


def _choose_rows(path: Path, name: str, encoding: str, reading: Reading) -> None:
    """Find where a document holds its rows, if not at the top or in lists of one kind."""
    with RawStream(path, encoding) as stream:
        text = stream.buffered().read().decode("utf-8-sig", "replace")
    try:
        document = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return  # the reader gives what can be read
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
