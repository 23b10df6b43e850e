"""CSV and TSV files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from finetune_pipeline.data.decoding import broken_utf8
from finetune_pipeline.data.json_lines import MAX_LINE_BYTES
from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.data.readers.csv_dialect import Dialect, label_column
from finetune_pipeline.data.readers.csv_rows import Line, Row, read_rows
from finetune_pipeline.data.readers.encodings import Bytes, as_utf8
from finetune_pipeline.data.readers.json_document import byte_order_mark
from finetune_pipeline.data.readers.json_lines import SHOWN, broken_stream
from finetune_pipeline.data.readers.raw_stream import RawStream
from finetune_pipeline.data.readers.records import Block, Gather, Record, problem
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec import TaskSpec

_PIECE = 1 << 20


def read_table(stream: RawStream, file: str, spec: TaskSpec, dialect: Dialect, size: int, bom: bool) -> Iterator[Block]:
    """Blocks of a table's rows, as objects of text under the names of the columns."""
    gather = Gather(file, size)
    labels = frozenset(spec.labels)
    is_row = partial(dialect.is_row, label_column(dialect, spec), labels)
    text = as_utf8(stream, spec.data.csv.encoding)
    lines = _Lines(text, file, bom, exact=text is stream)
    rows = read_rows(lines.read(), dialect.delimiter, dialect.quote, len(dialect.columns), is_row)
    named = not dialect.header
    notes: tuple[Finding, ...] = (byte_order_mark(file),) if bom else ()
    for row in rows:
        if not named and not row.broken:
            named = True
            continue
        record = _record(row, file, dialect, spec, notes, lines.exact)
        notes = ()
        if block := gather.add(record, row.first.at + len(row.raw)):
            yield block
    for record in lines.problems:
        if block := gather.add(record, record.at or 0):
            yield block
    if block := gather.rest():
        yield block


class _Lines:
    """The lines of a stream. Lines that are too long, and a gzip file that breaks off, become `problems`."""

    def __init__(self, stream: Bytes, file: str, bom: bool, exact: bool) -> None:
        self._stream, self._file, self._bom = stream, file, bom
        self.problems: list[Record] = []
        self.exact = exact
        """Whether byte offsets are those of the file (unpacked), not of its UTF-8."""

    def read(self) -> Iterator[Line]:
        rest, at, number, skipped = b"", 0, 1, 0
        while piece := self._stream.read(_PIECE):
            parts = (rest + piece).split(b"\n")
            rest = parts.pop()
            for part in parts:
                if skipped:
                    self._too_long(number, at)
                else:
                    yield self._line(number, at, part)
                at, number, skipped = at + skipped + len(part) + 1, number + 1, 0
            if len(rest) > MAX_LINE_BYTES:
                skipped, rest = skipped + len(rest), b""
        if self._stream.problem:
            self.problems.append(broken_stream(self._stream, self._file, number, rest[:SHOWN], at))
        elif skipped:
            self._too_long(number, at)
        elif rest:
            yield self._line(number, at, rest)

    def _line(self, number: int, at: int, data: bytes) -> Line:
        if number == 1 and self._bom:
            data = data.removeprefix(b"\xef\xbb\xbf")
        return Line(number, at, data.removesuffix(b"\r"))

    def _too_long(self, number: int, at: int) -> None:
        place = f"{self._file}:{number}"
        message = f"the line is longer than {MAX_LINE_BYTES} bytes"
        finding = problem("line_too_long", place, message, "one row a line; is the file a table at all?")
        self.problems.append(Record(number, None, b"", (finding,), at))


def _record(row: Row, file: str, dialect: Dialect, spec: TaskSpec, notes: tuple[Finding, ...], exact: bool) -> Record:
    place, raw, at = f"{file}:{row.first.number}", row.raw, row.first.at
    found = list(notes)
    if row.broken:
        found.append(
            problem(
                "unclosed_quote",
                place,
                f"a quote ({dialect.quote}) opens a field and does not close it: {quoted(raw[:80].decode('utf-8', 'replace'))}",
                "close the quote, or double the quotes inside the field",
            )
        )
    elif len(row.cells) != len(dialect.columns):
        found.append(
            problem(
                "wrong_field_count",
                place,
                f"the row has {len(row.cells)} fields, {len(dialect.columns)} are expected "
                f"(delimiter {dialect.delimiter!r}, {'quote ' + dialect.quote if dialect.quote else 'no quoting'})",
                "put fields that hold the delimiter in quotes, or declare data.csv",
            )
        )
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if exact:
            found.append(broken_utf8(raw, error.start, place, at))
        else:
            message = f"the row holds bytes that are no {spec.data.csv.encoding}"
            found.append(problem("invalid_encoding", place, message, "declare the right data.csv.encoding"))
    if any(f.severity == "error" for f in found):
        return Record(row.first.number, None, raw, tuple(found), at, flat=True)
    value = dict(zip(dialect.columns, row.cells, strict=True))
    return Record(row.first.number, value, raw, tuple(found), at, flat=True)
