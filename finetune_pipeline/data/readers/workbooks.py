"""Reads sheets of a workbook (.xlsx) as objects of text keyed by column name. openpyxl reads row by row, so a sheet that claims
a million columns costs nothing. A cell becomes the text of a CSV export; a formula becomes its stored value, or nothing."""

import dataclasses
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from finetune_pipeline.data.json_lines import MAX_LINE_BYTES
from finetune_pipeline.data.quoting import quoted, row_finding
from finetune_pipeline.data.readers.containers import with_columns
from finetune_pipeline.data.readers.encoding import ZIP
from finetune_pipeline.data.readers.records import Record, about_file, broken_file, too_large, too_long
from finetune_pipeline.data.readers.tables import Dialect, header_again, title_rows
from finetune_pipeline.spec import TaskSpec

_LOOKED_AT = 1000
_PIECE = 1 << 20
_ESCAPED = re.compile("_x(00[01][0-9A-Fa-f]|005[Ff])_")
"""A control character, or an underscore, as workbooks escape it: a Windows line end is _x000D_ and a line feed."""

_MERGED = re.compile(rb'<(?:\w{1,20}:)?mergeCell\s[^<>]{0,80}?ref="([A-Z]{1,3})(\d{1,7}):[A-Z]{1,3}(\d{1,7})"')
_LONGEST_TAG = 200

Row = tuple[int, list[str]]
"""A row: its number in the sheet, and its cells as text."""
MergedCells = dict[int, list[tuple[int, int]]]
"""Cells merged over several rows, by their first row: column (from 0) and last row."""


def read_workbook(path: Path, file: str, spec: TaskSpec) -> Iterator[Record]:
    """Read the rows of the sheets that `data.sheet` names, or of the first one. `line` is the row's number in its sheet; `key`
    is the sheet's name if several are read."""
    with path.open("rb") as handle:
        if handle.read(len(ZIP)) != ZIP:
            message = "it is an old or password-protected Office file"
            yield about_file("unknown_container", file, message, "save it as .xlsx without a password")
            return
    number = 0
    try:
        with zipfile.ZipFile(path) as archive:
            if "[Content_Types].xml" not in archive.namelist():
                yield about_file("unknown_container", file, "it is a zip archive, not a workbook", "unpack it")
                return
            if _unpacks_to_more(archive, limit := int(spec.data.max_unpacked_gib * (1 << 30))):
                yield too_large(file, limit)
                return
        with warnings.catch_warnings(action="ignore"):  # styles and extensions that openpyxl leaves out
            for record in _records(path, file, spec):
                number = record.line if record.about == "row" else number
                yield record
    except Exception as error:  # noqa: BLE001 - openpyxl raises whatever the part it was reading raises
        reason = f"{type(error).__name__}: {quoted(' '.join(str(error).split()), 160)}"
        fix = "open it in the program that wrote it, and save it as .xlsx or as CSV in UTF-8"
        yield broken_file("bad_workbook", file, "workbook", number, reason, fix)


def sheets_of(declared: str | list[str] | None) -> list[str]:
    """Return the sheets that `data.sheet` names."""
    return [declared] if isinstance(declared, str) else declared or []


def sheet_names(path: Path) -> dict[str, bool]:
    """Return the sheet names of a workbook in order, and whether each sheet is visible; none if it cannot be opened."""
    import openpyxl

    try:
        with warnings.catch_warnings(action="ignore"), path.open("rb") as handle:
            book = openpyxl.load_workbook(handle, read_only=True)  # given a path, it would insist on a suffix
            return {sheet.title: sheet.sheet_state == "visible" for sheet in book.worksheets}
    except Exception:  # noqa: BLE001 - openpyxl raises whatever the part it was reading raises; the reader reports what is wrong
        return {}


def _unpacks_to_more(archive: zipfile.ZipFile, limit: int) -> bool:
    """Whether the parts unpack to more bytes than the limit. The sizes that the archive declares are not trusted."""
    for name in archive.namelist():
        with archive.open(name) as part:
            while piece := part.read(_PIECE):
                limit -= len(piece)
                if limit < 0:
                    return True
    return False


def _records(path: Path, file: str, spec: TaskSpec) -> Iterator[Record]:
    import openpyxl

    with path.open("rb") as handle:
        values = openpyxl.load_workbook(handle, read_only=True, data_only=True)
        sheets = [sheet.title for sheet in values.worksheets]
        names = sheets_of(spec.data.sheet) or sheets[:1] or [""]
        if missing := [name for name in names if name not in sheets]:
            message = f"it has no sheet {quoted(missing[0])}; it has {', '.join(map(quoted, sheets)) or 'none'}"
            yield about_file("no_sheet", file, message, "correct data.sheet in task.yaml")
            return
        if len(sheets) > 1 and spec.data.sheet is None:
            message = f"only the first sheet {quoted(sheets[0])} is read, not {', '.join(map(quoted, sheets[1:]))}"
            fix = f"name the sheet, or all of one header: `data: {{sheet: [{', '.join(map(quoted, sheets))}]}}`"
            yield about_file("other_sheets", file, message, fix, "warning")
        for name in names:
            key = name if len(names) > 1 else None
            within = f", sheet {quoted(name)}" if key else ""
            for record in _rows(_cells(values[name]), _merged_down(values[name]), file, spec):
                findings = tuple(dataclasses.replace(f, place=f"{f.place}{within}") for f in record.findings)
                yield replace(record, key=key, findings=findings)


def _is_merged(header: list[str], second: list[str]) -> bool:
    """Whether the second row names exactly those columns that the first one, with its merged cells, leaves unnamed."""
    pairs = [(a.strip(), b.strip()) for a, b in zip_longest(header, second, fillvalue="")]
    unnamed = [b for a, b in pairs[1:] if not a]
    return bool(unnamed) and all(unnamed) and bool(pairs[0][0]) and any(a and not b for a, b in pairs)


def _rows(rows: Iterator[Row], merged: MergedCells, file: str, spec: TaskSpec) -> Iterator[Record]:
    first = list(islice(rows, _LOOKED_AT))
    if not first:
        return
    width = max(len(cells) for _, cells in first)
    below = {
        row: down for row, down in merged.items() if row > first[:2][-1][0]
    }  # above may be titles and column names
    shown = [[*cells, *[""] * (width - len(cells))] for _, cells in _filled(first, below, width)]
    dialect = with_columns(Dialect(), shown, width, spec)
    if dialect.problem:
        fix = "name the columns in the first row, or by number: `data: {fields: {text: c1, label: c2}}`"
        yield about_file("workbook_columns", file, f"the sheet was not read: {dialect.problem}", fix)
        return
    if dialect.titles:
        yield title_rows(file, dialect.titles)
    header = first[dialect.titles][1] if dialect.header else []
    data_rows = first[dialect.titles + dialect.header :]
    if _is_merged(header, data_rows[0][1] if data_rows else []):
        message = "the column names are in two rows, as in tables with merged cells: the second was read as data"
        yield about_file("merged_header", file, message, "write a name over each column, all in one row", "warning")
    merged = {row: down for row, down in merged.items() if data_rows and row >= data_rows[0][0]}
    if merged:
        message = (
            f"{sum(map(len, merged.values())):,} cells are merged over several rows: each of these rows got their value"
        )
        yield about_file(
            "merged_cells", file, message, "nothing to do, if the value holds for each of the rows", "note"
        )
    limit = left = int(spec.data.max_unpacked_gib * (1 << 30))
    for number, cells in _filled(chain(data_rows, rows), merged, width):
        size = sum(map(len, cells))  # a text is stored once, however many cells hold it
        left -= size
        if left < 0:
            yield too_large(file, limit, number)
            return
        if size > MAX_LINE_BYTES:
            yield too_long(file, number, MAX_LINE_BYTES, "".join(cell[:80] for cell in cells[:80]).encode(), None)
            continue
        if header and cells == header:
            yield header_again(file, number, msgspec.json.encode(cells))
            continue
        value, problem = dict(zip_longest(dialect.columns, cells[:width], fillvalue="")), None
        if len(cells) > width:
            message = f"the row has {len(cells)} cells, {width} are expected"
            fix = "clear the cells outside the named columns, or name those columns"
            problem = row_finding("wrong_field_count", f"{file}:{number}", message, fix)
        raw, findings = msgspec.json.encode(value), (problem,) if problem else ()
        yield Record(number, None if problem else value, raw, findings, flat=True)


def _merged_down(sheet: Any) -> MergedCells:
    """Return the merged cells of a sheet that span several rows. openpyxl does not read them row by row, so they are searched in
    the sheet's XML, which lists them at its end."""
    from openpyxl.utils import column_index_from_string

    merged: MergedCells = {}
    with sheet._get_source() as part:
        tail = b""
        while piece := part.read(_PIECE):
            for hit in _MERGED.finditer(tail + piece):
                first_row, last_row = int(hit[2]), int(hit[3])
                if first_row < last_row:
                    column = column_index_from_string(hit[1].decode()) - 1
                    merged.setdefault(first_row, []).append((column, last_row))
            unfinished = piece[piece.rfind(b"<") :]
            tail = b"" if b">" in unfinished else unfinished[:_LONGEST_TAG]
    return merged


def _filled(rows: Iterable[Row], merged: MergedCells, width: int) -> Iterator[Row]:
    """Yield the rows with the value of a merged cell in every row that it spans, as the sheet shows it."""
    values: dict[int, tuple[int, str]] = {}
    for number, row in rows:
        cells = [*row, *[""] * (width - len(row))]
        values = {column: value for column, value in values.items() if number <= value[0]}
        for column, (_, text) in values.items():
            cells[column] = cells[column] or text
        values |= {
            column: (last_row, cells[column])
            for column, last_row in merged.get(number, ())
            if column < width and cells[column]
        }
        while cells and not cells[-1]:
            cells.pop()
        yield number, cells


def _cells(sheet: Any) -> Iterator[Row]:
    """Yield the non-empty rows of a sheet. The declared size of the sheet is ignored."""
    sheet.reset_dimensions()
    for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
        cells = [_text(value) for value in row]
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            yield number, cells


def _text(value: Any) -> str:
    """Return a cell as text, as in a CSV export."""
    if value is None or isinstance(value, bool):
        return {None: "", True: "TRUE", False: "FALSE"}[value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, float):
        return f"{value:.15g}"  # as a spreadsheet shows it: 0.15, not 0.15000000000000002
    if isinstance(value, datetime):
        return value.isoformat(sep=" ").removesuffix(" 00:00:00")
    if isinstance(value, date | time):
        return value.isoformat()
    return _ESCAPED.sub(lambda code: chr(int(code[1], 16)), str(value))
