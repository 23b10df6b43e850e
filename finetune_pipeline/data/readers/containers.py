"""Detects the type of a raw file from its first bytes, and the dialect of a table. The file's name decides only if the bytes do
not. A file that can be read in two ways is refused, with the line to add to task.yaml."""

import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import PurePath
from statistics import median

import msgspec

from finetune_pipeline.data.fields import ROW_KEYS, is_row_key, named_in_fields
from finetune_pipeline.data.json_lines import MAX_LINE_BYTES
from finetune_pipeline.data.names import is_known_name
from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.data.readers.encoding import OLE, PARQUET, ZIP, other_container
from finetune_pipeline.data.readers.json_document import FIRST_PAIR
from finetune_pipeline.data.readers.records import BLANKS, BOM, Line, read_lines
from finetune_pipeline.data.readers.tables import Dialect, bare, split_rows
from finetune_pipeline.spec import TaskSpec

_DELIMITERS = (",", "\t", ";", "|")
_LEAST_REGULAR = 0.6
"""Smallest share of lines that must belong to rows with the same number of fields."""
_MOST_TITLES = 10
"""More rows above a table than this are not titles."""
_ROWS_A_LABEL = 20
"""A column with this many rows for each value, on average, holds labels."""
_LEAST_ROWS = 20
"""With fewer rows, only known names and labels decide whether the first row is a header, and regular lines on the delimiter."""
_MARGIN = 0.1
"""Smallest lead of the best delimiter over the next one, as share of lines."""
_JSON_LINES, _TABLE_LINES = 50, 1000
"""Number of lines examined to recognise JSON, and to find the dialect of a table."""
_NEXT_OBJECT = re.compile(rb"\}\s*\{")
_JSON_SUFFIXES = (".jsonl", ".ndjson", ".jsonlines", ".json")
_TABLE_SUFFIXES = (".csv", ".tsv", ".tab")


@dataclass(frozen=True)
class _Reading:
    """The first lines, split by one delimiter. regular: how many of them belong to rows with `fields` fields."""

    delimiter: str
    quote: str
    fields: int
    regular: int
    lines: int
    rows: list[list[str]]

    @property
    def is_one_column(self) -> bool:
        """Whether the rows with a delimiter have it within quotes, apart from a last row that is cut off."""
        within_quotes = [len(cells) == 1 for cells in self.rows if len(cells) > 1 or self.delimiter in cells[0]]
        return bool(self.quote) and sum(within_quotes) >= (1 - _MARGIN) * len(within_quotes)

    @cached_property
    def fit(self) -> float:
        """The share of regular lines. A delimiter that gives a header fits better; one followed by blanks, like commas in prose,
        fits worse."""
        rows = [cells for cells in self.rows if len(cells) == self.fields]
        if len(rows) <= _LEAST_ROWS:
            return self.regular / self.lines
        cells = [cell for row in rows for cell in row[1:]]
        spaced = sum(cell.startswith(" ") for cell in cells) / max(1, len(cells))
        has_header = rows[0] == self.rows[0] and _names_columns(rows[0], rows[1:])
        return self.regular / self.lines - 0.3 * spaced + 0.1 * has_header

    def __str__(self) -> str:
        quote = f"quote {self.quote}" if self.quote else "no quoting"
        share = "all" if self.regular == self.lines else f"{self.regular / self.lines:.1%}"
        counts = f"give {self.fields} fields in {share} of the first {self.lines} lines"
        return f"delimiter {self.delimiter!r} and {quote} {counts}"


def find_dialect(lines: Sequence[Line], file: str, spec: TaskSpec) -> Dialect:
    """Detect the dialect of a table from its first lines.

    ``data.csv`` takes precedence; the default quote is the double quote. A delimiter is accepted if at least _LEAST_REGULAR
    of the lines belong to rows with the same number of fields and no other delimiter comes close. Known column names in the
    first row, and tabs in a .tsv file, break ties. An ambiguous dialect gets a `problem`, with the line to add to task.yaml.
    """
    declared = spec.data.csv
    quote: str = '"' if declared.quote is None else declared.quote
    if quote == "none":
        quote = ""
    lines = [line for line in lines if line.text.strip()]
    labels = frozenset(spec.labels)
    possible = [declared.delimiter] if declared.delimiter else _DELIMITERS
    delimiters = [d for d in possible if any(d in line.text for line in lines)]
    readings = [_read_with(lines, delimiter, quote, labels) for delimiter in delimiters]

    regular = [r for r in readings if r.rows and (declared.delimiter or r.regular >= _LEAST_REGULAR * r.lines)]
    fitting = [reading for reading in regular if reading.fields >= 2]
    if not fitting and not declared.delimiter:  # one column, whose quotes enclose the delimiters
        fitting = [reading for reading in regular if reading.is_one_column][:1]
    if not fitting:
        fix = "repair the file, or add to task.yaml: `data: {csv: {delimiter: ';'}}` with the delimiter it has"
        no_table = "the file is not a table: no line holds a delimiter (, ; | or tab)"
        tried = "; ".join(str(reading) for reading in readings[:2])
        no_fit = f"no delimiter splits most rows into the same number of fields (at least two): {tried}"
        return Dialect(problem=no_fit if readings else f"{no_table}; is it JSON Lines or another format?", fix=fix)
    names = {name.casefold() for name in (*named_in_fields(spec), *ROW_KEYS)}
    prefers_tabs = file.lower().removesuffix(".gz").endswith((".tsv", ".tab"))

    def rank(reading: _Reading) -> tuple[int, bool]:
        first = reading.rows[0] if reading.rows else []
        return sum(bare(c).casefold() in names for c in first), prefers_tabs and reading.delimiter == "\t"

    best, *runners_up = sorted(fitting, key=lambda reading: (*rank(reading), reading.fit), reverse=True)
    rivals = [reading for reading in runners_up if rank(reading) == rank(best) and reading.fit > best.fit - _MARGIN]
    if rivals:
        fix = _fix_by_declaring("delimiter", quoted(best.delimiter), quoted(rivals[0].delimiter))
        return Dialect(problem=f"the delimiter is ambiguous: {best}; {rivals[0]}", fix=fix)
    return with_columns(Dialect(best.delimiter, best.quote, why=str(best)), best.rows, best.fields, spec)


def _fix_by_declaring(name: str, value: str, alternative: str) -> str:
    return f"add to task.yaml: `data: {{csv: {{{name}: {value}}}}}`, or {alternative}"


def _read_with(lines: Sequence[Line], delimiter: str, quote: str, labels: frozenset[str]) -> _Reading:
    counts: Counter[int] = Counter()
    for row in split_rows(lines, delimiter, quote):
        if not row.problem:
            counts[len(row.cells)] += row.lines
    fields = max(counts, key=lambda n: (counts[n] if n > 1 else counts[n] / 10, n), default=0)
    rows = list(split_rows(lines, delimiter, quote, fields, labels))
    regular = [row for row in rows if not row.problem and len(row.cells) == fields]
    cells = [row.cells for row in rows if not row.problem]
    return _Reading(delimiter, quote, fields, sum(r.lines for r in regular), len(lines), cells)


def with_columns(dialect: Dialect, rows: Sequence[Sequence[str]], fields: int, spec: TaskSpec) -> Dialect:
    """Complete the dialect with columns. Whether the first of the `rows` is a header is declared, or inferred from the rows.
    fields: number of cells of a row."""
    titles = _count_titles(rows)
    rows, dialect = rows[titles:], replace(dialect, titles=titles)
    cells = [c.strip() for c in rows[0]]
    numbered = tuple(f"c{i}" for i in range(1, fields + 1))
    header, reason = spec.data.csv.header, "as declared"
    if header is None:
        header, reason = _is_header([bare(c) for c in cells], rows[1:], numbered, spec)
    if header is None:
        first = ", ".join(quoted(c) for c in cells[:4])
        problem = (
            f"it is unclear whether the first row names the columns: it holds {first}, not a known or declared name"
        )
        fix = _fix_by_declaring("header", "true", "false; and name columns in data.fields")
        return replace(dialect, problem=problem, fix=fix)
    why = f"the first row {'names the columns' if header else 'is data'}: {reason}"
    dialect = replace(dialect, header=header, why=f"{dialect.why}; {why}" if dialect.why else why)
    if not header:
        return replace(dialect, columns=numbered)
    names = [c or n for c, n in zip([*cells, *[""] * fields], numbered, strict=False)]
    counts = [names[:i].count(name) for i, name in enumerate(names)]  # Jira's exports repeat names, such as `Comment`
    columns = tuple(f"{c}_{n + 1}" if n and c not in ROW_KEYS else c for c, n in zip(names, counts, strict=True))
    fix = "correct the first row, or add to task.yaml: `data: {csv: {header: false}}`"
    if len(cells) != fields:
        problem = f"the first row names {len(cells)} columns, the rows have {fields} fields"
        return replace(dialect, problem=problem, fix=fix)
    if duplicates := [name for name, count in Counter(columns).items() if count > 1]:
        return replace(dialect, problem=f"two columns have the name {quoted(duplicates[0])}", fix=fix)
    return replace(dialect, columns=columns)


def _count_titles(rows: Sequence[Sequence[str]]) -> int:
    """Count the rows above a table: the first ones with one filled cell, or at most half as many as the median row."""
    filled = [sum(bool(cell.strip()) for cell in row) for row in rows]
    threshold = max(1, median(filled or [0]) / 2)
    titles = next((i for i, n in enumerate(filled) if n > threshold), 0)
    if len(rows) > titles + 2 and filled[titles] < filled[titles + 1]:  # maybe names of column groups above the header
        first, second = ({*filter(is_known_name, map(str.strip, row))} for row in rows[titles : titles + 2])
        titles += not first and len(second) > 1
    return titles if titles <= _MOST_TITLES and 2 * sum(n > threshold for n in filled) > len(filled) else 0


def _is_header(
    cells: list[str], rows_below: Sequence[Sequence[str]], numbered: tuple[str, ...], spec: TaskSpec
) -> tuple[bool | None, str]:
    """Return (whether the first row names the columns, the reason); None if ambiguous."""
    declared, labels = {name.casefold() for name in named_in_fields(spec)}, frozenset(spec.labels)
    if names := [c for c in cells if c.casefold() in declared]:
        return True, f"it holds {quoted(names[0])}, which data.fields names"

    def holds_labels(column: int) -> bool:
        below = [bare(row[column]) for row in rows_below if column < len(row)]
        return 2 * sum(cell in labels for cell in below) >= len(below)

    # a label may be called `text`, like another column
    if label_cells := [c for i, c in enumerate(cells) if c in labels and holds_labels(i)]:
        return False, f"it holds the label {quoted(label_cells[0])}"
    if declared and declared <= set(numbered):
        return False, "data.fields names the columns by number"
    if known_cells := [c for c in cells if c.casefold() in ROW_KEYS]:
        return True, f"it holds {quoted(known_cells[0])}, a known column name"
    labelled = sum(not labels.isdisjoint(map(bare, row)) for row in rows_below)
    if labels and labelled and labelled >= _LEAST_REGULAR * len(rows_below):
        return True, f"it holds no label, and {labelled} of the next {len(rows_below)} rows do"
    if len(rows_below) < _LEAST_ROWS:
        return None, ""
    is_header = _names_columns(cells, rows_below)
    return is_header, f"it {'differs from' if is_header else 'is like'} the rows below it"


def _names_columns(first: Sequence[str], rows_below: Sequence[Sequence[str]]) -> bool:
    """Whether a table's first row names its columns, judged by the cells below."""
    cells = [cell.strip().strip("\"'") for cell in first]
    rows_below = [row for row in rows_below if list(row) != list(first)]  # concatenated files repeat it
    columns = [[row[i].strip() for row in rows_below if i < len(row)] for i in range(len(cells))]
    named = [cell for cell in cells if cell]
    if not named or any(len(c) > 60 or _is_number(c) for c in named):
        return False
    is_repeated = any(cell and cell in column for cell, column in zip(cells, columns, strict=True))
    if not is_repeated and any(is_known_name(cell) for cell in named):
        return True
    if is_repeated or any(len(c.split()) > 5 or c[-1:] in ".!?" for c in named):
        label_sets = (set(column) for column in columns if len(column) >= _ROWS_A_LABEL * len(set(column)))
        return not is_repeated and any(len(labels) > 1 for labels in label_sets)  # labels only below the first row
    numbers = [sum(map(_is_number, c)) >= 0.8 * len(c) > 0 for c in columns]
    words = [sum(len(cell.split()) for cell in c) / len(c) if c else 0.0 for c in columns]
    longest = max(range(len(cells)), key=lambda i: words[i])
    return any(numbers) or len(cells[longest].split()) <= max(2, words[longest] / 2) or not rows_below


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?\d+([.,]\d+)*%?", text.strip()))


@dataclass(frozen=True)
class Container:
    """The type of a file. kind: json_lines, json, csv, parquet, workbook or unknown. why: the reason, as text."""

    kind: str
    why: str
    dialect: Dialect | None = None


def container_of(head: bytes, complete: bool, file: str, spec: TaskSpec) -> Container:
    """Detect the container of a file from its first bytes (about a MiB). complete: these are all bytes of the file."""
    path = PurePath(file.lower())
    suffix = PurePath(path.stem).suffix if path.suffix in (".gz", ".gzip") else path.suffix
    if head.startswith(PARQUET):
        return Container("parquet", "the file begins with Parquet's signature")
    if head.startswith((ZIP, OLE)):
        return Container("workbook", "the file begins like a workbook")
    if other_kind := other_container(head):
        return Container("unknown", f"it is {other_kind}")
    csv = spec.data.csv
    declared = csv.delimiter is not None or csv.quote is not None
    table = suffix in _TABLE_SUFFIXES or (declared and suffix not in _JSON_SUFFIXES)
    body = head.removeprefix(BOM)
    if not body.strip(BLANKS):
        return Container("json_lines", "blank lines only" if complete else "blank lines come first")
    if not table:
        lines = _first_json_lines(body.split(b"\n"))
        if body.lstrip(BLANKS)[:1] in (b"[", b"{"):
            kind, why = _json_kind(body, complete, spec)
            odd = suffix in _JSON_SUFFIXES and (kind == "json_lines") == (suffix == ".json")
            return Container(kind, why + (", regardless of its suffix" if odd else ""))
        objects = sum(line.startswith(b"{") for line in lines)
        if 2 * objects >= len(lines) or suffix in _JSON_SUFFIXES:
            why = f"of the first {len(lines)} lines {objects} begin with {{" if objects else "the suffix says so"
            return Container("json_lines", f"JSON Lines: {why}")
    dialect = find_dialect(_text_lines(body, complete), file, spec)
    return Container("csv" if table or not dialect.problem else "unknown", dialect.problem or dialect.why, dialect)


def _text_lines(body: bytes, complete: bool) -> list[Line]:
    """Return the first lines of a table; the last one only if the file ends with it."""
    source = read_lines(io.BufferedReader(io.BytesIO(body)), MAX_LINE_BYTES, blanks=_TABLE_LINES)
    lines = list(islice(source, _TABLE_LINES + 1))
    return lines[:_TABLE_LINES] if complete or len(lines) > _TABLE_LINES else lines[:-1] or lines


def _first_json_lines(lines: Sequence[bytes]) -> list[bytes]:
    """Return the first lines that are not blank, without blanks around them."""
    stripped = (line.strip(BLANKS) for line in lines[: 4 * _JSON_LINES])
    return [line for line in stripped if line][:_JSON_LINES]


def _json_kind(body: bytes, complete: bool, spec: TaskSpec) -> tuple[str, str]:
    """Decide whether a text that begins with a bracket is JSON Lines or one document. Returns (kind, reason)."""
    complete_lines = body.split(b"\n") if complete else body.split(b"\n")[:-1]
    lines = _first_json_lines(complete_lines)
    if len(lines) < 2:  # the whole text, or the part looked at, is one line
        line = (lines or [body.lstrip(BLANKS)])[0]
        if line[:1] == b"[":
            return "json", "JSON array on one line"
        if _NEXT_OBJECT.search(line) and not _is_value(line):
            return "json", "JSON values one after the other on one line"
        pair = FIRST_PAIR.match(line.decode("utf-8", "replace"))
        if spec.data.fields.rows or (pair and pair[2] == "[" and not is_row_key(pair[1], spec)):
            return "json", "JSON object on one line"
        return "json_lines", "JSON Lines: one line"
    values = sum(_is_value(line) for line in lines)
    why = f"JSON Lines: {values} of the first {len(lines)} lines are JSON values"
    first, second = lines[0], lines[1]
    if 2 * values >= len(lines) and (_is_value(first) or (2 * values > len(lines) and first != b"[")):
        return "json_lines", why
    goes_on = first[-1:] in (b"[", b"{", b",", b":") or second[:1] in (b",", b"]", b"}", b":")
    row_after_row = first[:1] == b"{" and first[-1:] in (b"{", b",") and second[:1] == b"{"
    if first[:1] == b"[" or (goes_on and not row_after_row):
        return "json", f"JSON {'array' if first[:1] == b'[' else 'object'} over several lines"
    return "json_lines", why


def _is_value(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return line[:1] in (b"[", b"{")
