"""Reads CSV and TSV files with the standard library; one wrong quote costs only one line.

The strict mode of ``csv`` refuses a quoted field that is not closed, or is closed in the middle of a field. The first line of
such a row then becomes a broken row, and reading continues with the next line. The same happens if a quoted field has
swallowed lines that are complete rows themselves.
"""

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from finetune_pipeline.data.json_lines import MAX_LINE_BYTES, broken_utf8
from finetune_pipeline.data.quoting import quoted, row_finding
from finetune_pipeline.data.readers import records
from finetune_pipeline.data.readers.records import SHOWN, Line, RawStream, Record, read_lines
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec import TaskSpec

_MOST_LINES_OF_A_ROW = 5000
_MOST_CHARACTERS_OF_A_ROW = 1 << 20
_SEPARATOR = re.compile(r"sep=.\s*", re.IGNORECASE)
"""A first line that tells Excel the delimiter, such as `sep=;`."""
csv.field_size_limit(MAX_LINE_BYTES)


@dataclass(frozen=True)
class Dialect:
    """How to read a table.

    Attributes:
        quote: Empty if quotes have no meaning.
        columns: Names of the columns; c1, c2, … without a header.
        header: Whether the first row of the table names the columns.
        titles: Number of rows above the table.
        why: The evidence, as text.
        problem, fix: Why the table cannot be read, and what to do. The other fields are then undefined.
    """

    delimiter: str = ","
    quote: str = '"'
    columns: tuple[str, ...] = ()
    header: bool = True
    titles: int = 0
    why: str = ""
    problem: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Row:
    """One row of a table. lines: number of lines. problem: why the first line cannot be read as a row; it then has no cells."""

    first: Line
    lines: int
    text: str
    cells: list[str]
    problem: str = ""


def split_rows(
    lines: Iterable[Line], delimiter: str, quote: str, fields: int | None = None, labels: frozenset[str] = frozenset()
) -> Iterator[Row]:
    """Split lines into rows; blank lines are skipped.

    Args:
        quote: Empty if quotes have no meaning.
        fields: Number of cells of a complete row, if known.
        labels: If every line of a quoted field holds one of these, the lines are rows and the quote is a stray one.
    """
    source = iter(lines)
    escaped_quote = re.compile(rf"(?<!\\)((?:\\\\)*)\\{re.escape(quote)}")  # as Spark and MySQL write them
    ahead: deque[Line] = deque()  # lines read already that may belong to later rows
    while line := ahead.popleft() if ahead else next(source, None):
        if not line.text.strip() or (line.number == 1 and _SEPARATOR.fullmatch(line.text)):
            continue
        if line.cut or not quote or quote not in line.text:
            yield Row(line, 1, line.text, line.text.rstrip("\r\n").split(delimiter), "too long" if line.cut else "")
            continue
        problem, cells = "", []
        # ways to read quotes, tried in turn: whether blanks may precede one, and whether \" is one inside a field
        modes = [(True, False), (False, False), (False, True)]
        for skip_blanks, backslash_escapes in modes[1:] if delimiter == "\t" else modes:
            texts = _with_lines_below(line, ahead, source)
            if backslash_escapes:
                texts = (escaped_quote.sub(lambda match: match[1] + quote * 2, text) for text in texts)
            reader = csv.reader(texts, delimiter=delimiter, quotechar=quote, strict=True, skipinitialspace=skip_blanks)
            try:
                problem, cells = "", next(reader)
                break
            except csv.Error as error:
                problem = str(error)
        row_lines = [line, *(ahead[i] for i in range(reader.line_num - 1 if not problem else 0))]
        if len(row_lines) > 1 and _swallowed(row_lines, cells, delimiter, fields, labels):
            problem = "the field has swallowed the following lines, which look like rows"
        if problem:
            yield Row(line, 1, line.text, [], problem)
            continue
        yield Row(line, len(row_lines), "".join(part.text for part in row_lines), cells)
        for _ in row_lines[1:]:
            ahead.popleft()


def _with_lines_below(first: Line, ahead: deque[Line], source: Iterator[Line]) -> Iterator[str]:
    """Yield the text of a line and of those below it, up to the longest row. The lines read stay in `ahead`."""
    yield first.text
    size = len(first.text)
    for i in range(_MOST_LINES_OF_A_ROW):
        if i == len(ahead):
            line = next(source, None)
            if line is None:
                return
            ahead.append(line)
        size += len(ahead[i].text)
        if size > _MOST_CHARACTERS_OF_A_ROW:
            return
        yield ahead[i].text


def _swallowed(lines: list[Line], cells: list[str], delimiter: str, fields: int | None, labels: frozenset[str]) -> bool:
    """Whether a row over several lines is a stray quote followed by complete rows.

    It is if the row has a wrong number of cells, or if, without quoting, each line has the right number and holds a label.
    If there are no labels, a table with commas needs three such lines, none with a comma before a blank or at its end, because
    prose is full of commas.
    """
    if fields is None:
        return False
    if len(cells) != fields:
        return True
    unquoted_rows = [line.text.rstrip("\r\n").split(delimiter) for line in lines]
    if any(len(row) != fields for row in unquoted_rows):
        return False
    if labels:
        return all(any(bare(cell) in labels for cell in row) for row in unquoted_rows)
    is_prose = any(not cell or cell[0].isspace() for row in unquoted_rows for cell in row[1:])
    return delimiter != "," or (len(lines) > 2 and not is_prose)


def bare(cell: str) -> str:
    """Strip surrounding quotes and whitespace from a cell."""
    return cell.strip().strip("\"'").strip()


def title_rows(file: str, number: int) -> Record:
    """Return the record that reports `number` title rows above a table."""
    rows = "a row" if number == 1 else f"{number} rows"
    message = f"{rows} with few filled cells above the table: read as a title, not as data"
    return records.about_file("title_rows", file, message, "nothing to do, or remove them from the file", "warning")


def header_again(file: str, line: int, raw: bytes, at: int | None = None) -> Record:
    """Return the record that reports a repeated header, as in concatenated files."""
    return records.unreadable("header_again", file, line, "the row repeats the header", "remove it", raw, at)


def read_table(stream: RawStream, file: str, spec: TaskSpec, dialect: Dialect) -> Iterator[Record]:
    """Read the rows of a table as objects of text keyed by column name."""
    fields, labels = len(dialect.columns), frozenset(spec.labels)
    rows_above = dialect.titles + dialect.header
    notes: tuple[Finding, ...] = ()
    last: Line | None = None
    header: list[str] = []

    def lines() -> Iterator[Line]:
        nonlocal last, notes
        for line in read_lines(stream.buffered(), MAX_LINE_BYTES, blanks=_MOST_LINES_OF_A_ROW):
            if line.marked:
                notes = (*notes, records.byte_order_mark(file, line.number))
            if stream.problem and not line.data.endswith(b"\n"):
                last = line
                return
            yield line

    if dialect.titles:
        yield title_rows(file, dialect.titles)
    for row in split_rows(lines(), dialect.delimiter, dialect.quote, fields, labels):
        if rows_above and not row.problem:
            rows_above -= 1
            header = row.cells if dialect.header and not rows_above else []
            continue
        line = row.first
        if header and row.cells == header:
            yield header_again(file, line.number, line.data, line.at)
        else:
            yield _record(row, file, dialect, notes)
        notes = ()
    if stream.problem:
        number, raw, at = (last.number, last.data, last.at) if last else (1, b"", None)
        yield records.broken_stream(stream, file, number, raw, at)


def _record(row: Row, file: str, dialect: Dialect, notes: tuple[Finding, ...]) -> Record:
    line, at, raw = row.first.number, row.first.at, row.text.encode("utf-8", "surrogateescape").rstrip(b"\r\n")
    place = f"{file}:{line}"
    if row.first.cut:
        return records.too_long(file, line, MAX_LINE_BYTES, raw, at)
    findings = list(notes)
    if row.problem:
        reason = f"{row.problem}: {quoted(row.text[:80])}"
        message = f"a quote ({dialect.quote}) is not closed where the field ends: {reason}"
        no_quoting = "if quotes mean nothing here: `data: {csv: {quote: none}}` in task.yaml"
        fix = f"close the quote, or double the quotes inside the field; {no_quoting}"
        findings.append(row_finding("unclosed_quote", place, message, fix))
    elif len(row.cells) != len(dialect.columns):
        dialect_name = f"delimiter {dialect.delimiter!r}, {f'quote {dialect.quote}' if dialect.quote else 'no quoting'}"
        message = f"the row has {len(row.cells)} fields, {len(dialect.columns)} are expected ({dialect_name})"
        fix = "quote fields that contain the delimiter, or declare data.csv in task.yaml"
        findings.append(row_finding("wrong_field_count", place, message, fix))
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        fix = "save the file as UTF-8, or add to task.yaml: `data: {csv: {encoding: cp1252}}` with its encoding"
        findings.append(replace(broken_utf8(raw, error.start, place, at), fix=fix))
    if any(f.severity == "error" for f in findings):
        cut = not row.text.endswith("\n") and (row.problem or len(row.cells) < len(dialect.columns))
        return Record(line, None, raw[:SHOWN], tuple(findings), at, flat=True, about="rest" if cut else "row")
    return Record(line, dict(zip(dialect.columns, row.cells, strict=True)), raw, tuple(findings), at, flat=True)
