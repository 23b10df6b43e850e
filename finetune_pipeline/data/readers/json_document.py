"""JSON documents: a list of rows, an object of lists of rows, one row, or rows somewhere inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

from finetune_pipeline.data.decoding import decode_line
from finetune_pipeline.data.fields import compile_expression, is_row_key, plain_path
from finetune_pipeline.data.json_lines import MAX_LINE_BYTES
from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.data.readers.document_cursor import Cursor
from finetune_pipeline.data.readers.json_lines import SHOWN, broken_stream
from finetune_pipeline.data.readers.raw_stream import RawStream
from finetune_pipeline.data.readers.records import Block, Gather, Record, problem
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec import TaskSpec

_OPEN_LIST, _CLOSE_LIST, _OPEN, _CLOSE, _COMMA, _COLON, _QUOTE = b'[]{},:"'
_FIX = "write the document with a JSON library"


def read_json_document(stream: RawStream, file: str, spec: TaskSpec, size: int, bom: bool) -> Iterator[Block]:
    """Blocks of the rows of a document, each row's JSON as it stands in the file, to be decoded by whoever judges it.

    A broken row costs only itself; a document that is cut off loses only its last row.
    """
    gather = Gather(file, size)
    expression = spec.data.fields.rows
    path = plain_path(expression) if expression else None
    records = (
        _whole(stream, file, expression, bom)
        if expression and path is None
        else _Walk(stream, file, spec, path).records(bom)
    )
    for record, end in records:
        if block := gather.add(record, end):
            yield block
    if block := gather.rest():
        yield block


def byte_order_mark(file: str) -> Finding:
    """The note about a byte order mark."""
    return Finding(
        "data.byte_order_mark",
        "note",
        f"{file}:1",
        "the file starts with a byte order mark",
        "nothing to do; it was left out",
    )


class _Walk:
    def __init__(self, stream: RawStream, file: str, spec: TaskSpec, path: list[str] | None) -> None:
        self._stream, self._file, self._spec, self._path = stream, file, spec, path
        self._cursor = Cursor(stream)
        self._missing_comma = False
        self._found = False
        self._cut = self._torn = False

    def records(self, bom: bool) -> Iterator[tuple[Record, int]]:
        """(record, byte offset behind it) of every row of the document."""
        cursor = self._cursor
        notes: tuple[Finding, ...] = ()
        if bom:
            cursor.peek()
            cursor.skip(3)
            notes = (byte_order_mark(self._file),)
        for record, end in self._top():
            if notes:
                yield replace(record, findings=(*notes, *record.findings)), end
                notes = ()
                continue
            yield record, end
        if self._stream.problem:
            yield broken_stream(self._stream, self._file, cursor.line), cursor.offset
        elif self._path is not None and not self._found:
            expression = self._spec.data.fields.rows
            message = f"data.fields.rows: {expression!r} leads to no list of rows in this document"
            yield self._bad("missing_field", message, "correct the expression"), cursor.offset
        elif not self._found:
            yield self._bad("no_rows", "the document holds no rows", "remove the file, or fill it"), cursor.offset

    def _bad(
        self, rule: str, message: str, fix: str, raw: bytes = b"", line: int = 0, key: str | None = None
    ) -> Record:
        line = line or self._cursor.line
        return Record(line, None, raw[:SHOWN], (problem(rule, f"{self._file}:{line}", message, fix),), key=key)

    def _top(self) -> Iterator[tuple[Record, int]]:
        """What stands at the top: the document, and whatever wrongly stands behind it."""
        cursor, first = self._cursor, True
        while (byte := cursor.peek()) is not None:
            if not first:
                self._found = True
                message = "text stands behind the end of the document"
                yield self._bad("bad_json", message, _FIX, b""), cursor.offset
            if byte == _OPEN_LIST and self._path is None:
                yield from self._list(None)
            elif byte == _OPEN and first:
                yield from self._object(list(self._path or ()), self._path is None)
            elif byte in (_OPEN, _OPEN_LIST) and not first:
                yield self._item(None)
            elif byte == _OPEN_LIST:
                cursor.value()
            else:
                cursor.skip()
                cursor.skip_to(b"[{")
            first = False

    def _item(self, key: str | None) -> tuple[Record, int]:
        cursor = self._cursor
        line, at = cursor.line, cursor.offset
        raw, state = cursor.value()
        self._cut, self._torn = state == "cut", state == "torn"
        self._found = True
        if state == "long":
            message = f"the row is longer than {MAX_LINE_BYTES} bytes"
            return self._bad("line_too_long", message, "shorten or remove it", raw, line, key), cursor.offset
        found: tuple[Finding, ...] = ()
        if self._missing_comma:
            message = "no comma stands between this row and the one before it"
            found = (Finding("data.bad_json", "warning", f"{self._file}:{line}", message, _FIX),)
        return Record(line, None, raw, found, at, key, encoded=True), cursor.offset

    def _list(self, key: str | None) -> Iterator[tuple[Record, int]]:
        """The rows of the list that begins here."""
        cursor = self._cursor
        opened = cursor.line
        cursor.skip()
        comma = True  # whether a row may begin here
        empty = True
        while True:
            byte = cursor.peek()
            if byte is None:
                yield from self._end_missing(f"the list that begins in line {opened}")
                return
            if byte == _CLOSE_LIST or (byte == _COMMA and comma):
                if comma and not empty:
                    message = "a comma with no row behind it: a row is missing here"
                    yield self._bad("bad_json", message, _FIX, key=key), cursor.offset
                cursor.skip()
                if byte == _CLOSE_LIST:
                    return
                empty = False
            elif byte == _COMMA:
                cursor.skip()
                comma = True
            elif byte in (_CLOSE, _COLON):
                self._found = True
                rubbish = cursor.skip_to(b"[{],")
                yield (
                    self._bad(
                        "bad_json",
                        f"{quoted(rubbish[:40].decode('utf-8', 'replace'))} stands between rows",
                        _FIX,
                        rubbish,
                    ),
                    cursor.offset,
                )
            else:
                self._missing_comma = not comma
                yield self._item(key)
                self._missing_comma = False
                comma, empty = self._torn, False  # what tore a row may have been its comma

    def _end_missing(self, where: str) -> Iterator[tuple[Record, int]]:
        """The document ends too early: told once, and not again where a row that was cut off tells it."""
        if not (self._stream.problem or self._cut):
            message = f"the document ends within {where}; rows may be missing"
            yield self._bad("bad_json", message, "take the whole file from its source again"), self._cursor.offset
        self._cut = self._found = True

    def _object(self, path: list[str], rows_wanted: bool) -> Iterator[tuple[Record, int]]:
        """The object that begins here: one row, or lists of rows under its keys, or the way to them along `path`."""
        cursor = self._cursor
        if rows_wanted and self._is_row():
            yield self._item(None)
            return
        cursor.skip()
        while (byte := cursor.peek()) is not None and byte != _CLOSE:
            line = cursor.line
            key = cursor.string() if byte == _QUOTE else None
            if key is None or cursor.peek() != _COLON:
                self._found = True
                rubbish = cursor.skip_to(b",}[{") if byte not in b"[{" else b""
                if not rubbish:
                    cursor.value() if byte in b"[{" else cursor.skip()
                message = "a key in double quotes, then a colon, is needed here"
                yield self._bad("bad_json", message, _FIX, rubbish, line), cursor.offset
                continue
            cursor.skip()
            yield from self._under_key(key, path, rows_wanted)
            if cursor.peek() == _COMMA:
                cursor.skip()
        if byte is None:
            yield from self._end_missing("an object")
        else:
            cursor.skip()

    def _under_key(self, key: str, path: list[str], rows_wanted: bool) -> Iterator[tuple[Record, int]]:
        """What stands under one key of an object."""
        cursor = self._cursor
        byte = cursor.peek()
        if path and key == path[0]:
            if byte == _OPEN:
                yield from self._object(path[1:], len(path) == 1)
                return
            if byte == _OPEN_LIST and len(path) == 1:
                self._found = True
                yield from self._list(None)
                return
        if not path and rows_wanted and byte == _OPEN_LIST:
            yield from self._list(key)
            return
        if byte is None:
            return
        line, (raw, _) = cursor.line, cursor.value()
        if rows_wanted and not path:
            self._found = True
            message = f"what stands under {quoted(key)} is no list of rows"
            yield (
                self._bad("not_rows", message, "say in data.fields.rows where the rows are", raw, line, key),
                cursor.offset,
            )

    def _is_row(self) -> bool:
        """Whether an object at the top is one row: its first value is no list, or its first key is one of a row's."""
        key, listed = self._cursor.first_pair()
        return not listed or is_row_key(key or "", self._spec)


def _whole(stream: RawStream, file: str, expression: str, bom: bool) -> Iterator[tuple[Record, int]]:
    """Rows that an expression finds in the document as a whole; `line` is then the number of the row.

    The document is in memory as a whole.
    """
    data = b"".join(iter(lambda: stream.read(1 << 20), b""))
    value, found, readable = decode_line(data[3:] if bom else data, f"{file}:1", 3 if bom else 0)
    if stream.problem:
        yield broken_stream(stream, file, 1, data[:SHOWN]), 0
        return
    rows: Any = None
    if readable and not found:
        try:
            rows = compile_expression(expression)[0](value, file, None)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, ArithmeticError) as error:
            message = f"data.fields.rows: {expression!r} cannot be worked out: {quoted(str(error), 160)}"
            found.append(problem("field_expression", f"{file}:1", message, "correct the expression"))
        if not isinstance(rows, list) and not found:
            message = f"data.fields.rows: {expression!r} gives {quoted(rows)}, not a list of rows"
            found.append(problem("missing_field", f"{file}:1", message, "correct the expression"))
    if found:
        yield Record(1, None, data[:SHOWN], tuple(found)), 0
        return
    notes = (byte_order_mark(file),) if bom else ()
    end = 0
    for number, row in enumerate(rows, 1):
        raw = msgspec.json.encode(row)
        end += len(raw)
        yield Record(number, None, raw, notes if number == 1 else (), encoded=True), end
