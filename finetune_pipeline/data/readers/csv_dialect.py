"""The dialect of a table: what is not declared is proven by trying every reading."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from finetune_pipeline.data.fields import ROW_KEYS, named_in_fields, plain_path
from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.data.readers.csv_rows import Line, Row, read_rows
from finetune_pipeline.spec import TaskSpec

_DELIMITERS = (",", "\t", ";", "|")
_QUOTES = ('"', "'", "none")
_SAMPLE_LINES = 3000
_ENOUGH = 0.6
_KNOWN = ROW_KEYS | {
    "utterance",
    "intent",
    "sentence",
    "category",
    "class",
    "target",
    "content",
    "message",
    "title",
    "body",
}


@dataclass(frozen=True)
class Dialect:
    """How a table is read. quote: empty where quotes mean nothing; header: the first row names the columns; problem:
    why no reading fits (then the rest means nothing)."""

    delimiter: str = ","
    quote: str = '"'
    columns: tuple[str, ...] = ()
    header: bool = True
    why: str = ""
    problem: str = ""

    def is_row(self, label_at: int | None, labels: frozenset[str], cells: list[str]) -> bool | None:
        """Whether cells hold a known label where one belongs, None when that cannot be told."""
        if label_at is None or not labels or label_at >= len(cells):
            return None
        return _unquoted(cells[label_at]) in labels


@dataclass(frozen=True)
class _Reading:
    delimiter: str
    quote: str
    fields: int
    share: float
    bad: int
    wrapped: int
    first: tuple[str, ...]

    @property
    def told(self) -> str:
        quote = f"quote {self.quote}" if self.quote else "no quoting"
        return f"delimiter {self.delimiter!r} and {quote} give {self.fields} fields"


def sample_lines(body: bytes, whole: bool) -> list[Line]:
    """The lines of the beginning of a table; the last one only when the file ends with it."""
    parts = body.split(b"\n")
    if not whole:
        parts = parts[:-1] or parts
    lines, at = [], 0
    for number, data in enumerate(parts[:_SAMPLE_LINES], 1):
        lines.append(Line(number, at, data.removesuffix(b"\r")))
        at += len(data) + 1
    return lines


def prove(body: bytes, whole: bool, file: str, spec: TaskSpec) -> Dialect:
    """The reading under which the most lines stand in rows of equally many fields, at least two.

    Ties go to the reading whose first row names known columns, then to the delimiter the suffix names, then to the one
    with more fields. A dialect with a `problem` when less than three fifths of the lines agree under any.
    """
    declared = spec.data.csv
    lines = [line for line in sample_lines(body, whole) if line.data.strip()]
    delimiters = (declared.delimiter,) if declared.delimiter else _DELIMITERS
    quotes = (declared.quote,) if declared.quote else _QUOTES
    readings = []
    for delimiter in delimiters:
        if delimiter.encode() not in body and not declared.delimiter:
            continue
        tried = [_try(lines, delimiter, "" if q == "none" else q, frozenset(spec.labels)) for q in quotes]
        readings.append(_best_quoting([r for r in tried if r]))
    fitting = [r for r in readings if r and r.fields >= 2]
    if not fitting:
        told = "no line holds a delimiter (, ; | or tab)" if not readings else "every row has a single field"
        return Dialect(problem=f"the file is no table: {told}; is it JSON Lines, or another format?")
    names = _names(spec)
    suffix = {".tsv": "\t", ".tab": "\t", ".csv": ","}.get(
        "." + file.lower().removesuffix(".gz").rpartition(".")[2], ""
    )
    best = max(
        fitting,
        key=lambda r: (round(r.share, 3), sum(_plain(c) in names for c in r.first), r.delimiter == suffix, r.fields),
    )
    if best.share < _ENOUGH:
        told = "; ".join(f"{r.told} in {r.share:.0%} of the lines" for r in fitting[:4])
        return Dialect(problem=f"no reading gives equally many fields: {told}; declare data.csv, or repair the file")
    every = (
        f"in all of the first {len(lines)} lines"
        if not best.bad
        else (f"in {best.share:.1%} of the first {len(lines)} lines")
    )
    dialect = Dialect(best.delimiter, best.quote, why=f"{best.told} {every}")
    return _with_columns(dialect, best, spec, names)


def _try(lines: list[Line], delimiter: str, quote: str, labels: frozenset[str]) -> _Reading | None:
    """What a reading makes of the lines: the commonest number of fields, and the share of lines in rows that have it."""
    counts: Counter[int] = Counter()
    for row in read_rows(lines, delimiter, quote):
        if not row.broken:
            counts[len(row.cells)] += row.lines
    if not counts:
        return None
    fields = max(counts, key=lambda n: (counts[n] if n > 1 else counts[n] / 10, n))

    def is_row(cells: list[str]) -> bool | None:
        return any(_unquoted(cell) in labels for cell in cells) if labels else None

    rows = list(read_rows(lines, delimiter, quote, fields, is_row))
    good = [row for row in rows if not row.broken and len(row.cells) == fields]
    agreeing = sum(row.lines for row in good)
    first: Row | None = next((row for row in rows if not row.broken), None)
    return _Reading(
        delimiter,
        quote,
        fields,
        agreeing / len(lines),
        len(lines) - agreeing,
        sum(row.wrapped for row in good),
        tuple(first.cells) if first else (),
    )


def _best_quoting(readings: list[_Reading]) -> _Reading | None:
    """Of the readings with one delimiter. Quotes are meant where they wrap many cells and break few lines."""
    plain = next((r for r in readings if not r.quote), None)
    quoting = [
        r
        for r in readings
        if r.quote
        and (plain is None or r.share > plain.share or (r.share > plain.share - 0.02 and r.wrapped >= 10 * r.bad))
        and (r.quote == '"' or plain is None or 2 * r.wrapped >= r.fields)
    ]
    if quoting:
        return max(quoting, key=lambda r: (r.share, r.wrapped, r.quote == '"'))
    return plain or max(readings, key=lambda r: r.share, default=None)


def _names(spec: TaskSpec) -> set[str]:
    return {_plain(n) for n in named_in_fields(spec)} | _KNOWN


def _unquoted(cell: str) -> str:
    return cell.strip().strip("\"'").strip()


def _plain(cell: str) -> str:
    return _unquoted(cell).casefold()


def _with_columns(dialect: Dialect, reading: _Reading, spec: TaskSpec, names: set[str]) -> Dialect:
    """Whether the first row names the columns, by what is declared or by what it holds."""
    cells = [c.strip() for c in reading.first]
    numbered = tuple(f"c{i}" for i in range(1, reading.fields + 1))
    wanted = {_plain(n) for n in named_in_fields(spec)}
    header, reason = spec.data.csv.header, "as declared"
    if header is None:
        header, reason = _is_header(cells, wanted, names, spec, reading.fields)
    why = f"{dialect.why}; the first row {'names the columns' if header else 'is data'}: {reason}"
    if not header:
        return replace(dialect, columns=numbered, header=False, why=why)
    columns = tuple(c or n for c, n in zip([*cells, *[""] * reading.fields], numbered, strict=False))
    twice = [name for name, n in Counter(columns).items() if n > 1]
    if len(cells) != reading.fields:
        problem = f"the first row names {len(cells)} columns, the rows have {reading.fields} fields"
        return replace(dialect, columns=numbered, why=why, problem=f"{problem}; correct the header or declare data.csv")
    if twice:
        problem = f"two columns are called {quoted(twice[0])}; rename one of them"
        return replace(dialect, columns=columns, why=why, problem=problem)
    return replace(dialect, columns=columns, why=why)


def _is_header(cells: list[str], wanted: set[str], names: set[str], spec: TaskSpec, fields: int) -> tuple[bool, str]:
    plain = [_plain(c) for c in cells]
    label = next((c for c in cells if c in set(spec.labels) and _plain(c) not in wanted), None)
    if hits := [c for c in plain if c in wanted]:
        return True, f"it holds {quoted(hits[0])}, which data.fields names"
    if label is not None:
        return False, f"it holds the label {quoted(label)}"
    if wanted and wanted <= {f"c{i}" for i in range(1, fields + 1)}:
        return False, "data.fields names the columns by number"
    if hits := [c for c in plain if c in names]:
        return True, f"it holds {quoted(hits[0])}, a known column name"
    return False, "it holds no name that is known or declared"


def label_column(dialect: Dialect, spec: TaskSpec) -> int | None:
    """Which column holds the labels, None when that cannot be told."""
    expression = spec.data.fields.label
    path = None
    if expression is not None:
        try:
            path = plain_path(expression)
        except ValueError:
            return None
    name = "label" if expression is None else path[0] if path and len(path) == 1 else None
    return dialect.columns.index(name) if name in dialect.columns else None
