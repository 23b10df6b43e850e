"""Reads JSON documents: a list of rows, an object of lists of rows, one row, or rows somewhere inside."""

import json
import re
from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from finetune_pipeline.data.fields import EXPRESSION_ERRORS, compile_expression, is_row_key, plain_path
from finetune_pipeline.data.json_lines import MAX_LINE_BYTES, decode_line, ends_early
from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.data.readers import records
from finetune_pipeline.data.readers.records import BOM, CUT_FIX, SHOWN, RawStream, Record
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec import TaskSpec

FIRST_PAIR = re.compile(r'\{\s*"((?:[^"\\]|\\.)*)"\s*:\s*(\S)')
_BLANKS = re.compile(r"[ \t\r\n]*")


def read_json_document(stream: RawStream, file: str, spec: TaskSpec) -> Iterator[Record]:
    """Read the rows of a document, each with its original JSON. The document is held in memory.

    The standard library's scanner reads one row after the other. If the document is broken or cut off, the rows before
    that byte are kept, and a last record names the byte. A problem within a row (a bad byte, a duplicate key) costs only
    that row.
    """
    data = stream.buffered().read()
    begin = len(BOM) if data.startswith(BOM) else 0
    notes = (records.byte_order_mark(file),) if begin else ()
    expression = spec.data.fields.rows
    path = plain_path(expression) if expression else []
    if path is None:
        if stream.problem:
            yield records.broken_stream(stream, file, 1, data)
        else:
            yield from _rows_of_expression(data, begin, file, expression or "", notes)
        return
    document = _Document(data.decode("latin-1"), begin)
    rows, is_one_row = 0, not path and begins_row(data[begin : begin + SHOWN], spec)
    in_one_line = "\n" not in document.text.strip(" \t\r\n")
    try:
        while True:
            for record in _rows(document, file, spec, path):
                rows += 1
                named = replace(record, item=rows) if in_one_line else record
                yield named if rows > 1 or not notes else replace(named, findings=(*notes, *named.findings))
            if document.peek() not in ("[", "{"):  # else another document follows
                break
        if document.peek():
            raise json.JSONDecodeError("text follows the end of the document", document.text, document.position)
    except (json.JSONDecodeError, RecursionError) as error:
        broken = _break(document, stream, file, error)
        yield replace(broken, about="row") if is_one_row and not rows and not stream.problem else broken
        return
    if stream.problem:
        yield records.broken_stream(stream, file, document.line)
    elif not rows and path:
        message = f"data.fields.rows: {expression!r} finds no rows in this document"
        yield records.unreadable("missing_field", file, document.line, message, "correct the expression")
    elif not rows:
        yield records.about_file("no_rows", file, "the document holds no rows", "fill or remove the file", "warning")


class _Document:
    """A position in a JSON text. The bytes are decoded as Latin-1: JSON's own signs are ASCII, and positions are byte
    offsets."""

    def __init__(self, text: str, position: int) -> None:
        self._decode = json.JSONDecoder(strict=False, parse_int=str, parse_float=str).raw_decode  # int() has a limit
        self._counted, self._lines = 0, 1  # lines are counted up to this position
        self.text = text
        self.position = position

    @property
    def line(self) -> int:
        """The line of the position, from 1."""
        self._lines += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._lines

    def peek(self) -> str:
        """Move to the next non-blank character and return it, or "" at the end."""
        self.position = _BLANKS.match(self.text, self.position).end()  # type: ignore[union-attr]
        return self.text[self.position : self.position + 1]

    def take(self, expected: str) -> str:
        """Move past the next character, which must be one of `expected`. Raises json.JSONDecodeError otherwise."""
        character = self.peek()
        if not character or character not in expected:
            raise json.JSONDecodeError(f"{' or '.join(expected)} is missing", self.text, self.position)
        self.position += 1
        return character

    def value(self) -> bytes:
        """Move past the value that begins here and return its JSON."""
        self.peek()
        begin = self.position
        self.position = self._decode(self.text, begin)[1]
        return self.text[begin : self.position].encode("latin-1")

    def parts(self) -> Iterator[str | None]:
        """Stop before each element of the list, or each value of the object, that begins here, and yield its key (None in
        a list). The caller reads the value."""
        is_list = self.take("[{") == "["
        end = "]" if is_list else "}"
        if self.peek() == end:
            self.position += 1
            return
        while True:
            key = None
            if not is_list:
                if self.peek() != '"':
                    raise json.JSONDecodeError("a key in double quotes is missing", self.text, self.position)
                key = json.loads(self.value().decode("utf-8", "replace"), strict=False)
                self.take(":")
            yield key
            if self.take(f",{end}") == end:
                return


def _rows(document: _Document, file: str, spec: TaskSpec, path: list[str]) -> Iterator[Record]:
    """Read the rows of the value at the current position. path: the keys that lead from it to the rows."""
    opening = document.peek()
    if opening not in ("[", "{") or (path and opening == "["):
        document.value()
    elif path:
        for key in document.parts():
            if key == path[0]:
                yield from _rows(document, file, spec, path[1:])
            else:
                document.value()
    elif opening == "[":
        yield from (_row(document, file) for _ in document.parts())
    elif _is_row(document.text, document.position, spec):
        yield _row(document, file)
    else:
        for key in document.parts():
            if document.peek() == "[":
                yield from (_row(document, file, key) for _ in document.parts())
                continue
            line, begin = document.line, document.position
            document.value()
            message = f"the value of {quoted(key)} is not a list of rows"
            fix = "set data.fields.rows to where the rows are"
            yield replace(records.unreadable("not_rows", file, line, message, fix, at=begin), key=key)


def _is_row(text: str, position: int, spec: TaskSpec) -> bool:
    """Whether a top-level object is one row: its first value is not a list, or its first key is a row's key."""
    pair = FIRST_PAIR.match(text, position)
    return pair is None or pair[2] != "[" or is_row_key(pair[1].encode("latin-1").decode("utf-8", "replace"), spec)


def begins_row(data: bytes, spec: TaskSpec) -> bool:
    """Whether a document that begins like this is one row, so that no other row is lost with it if it is broken."""
    text = data.decode("latin-1").lstrip(" \t\r\n")
    return text[:1] == "{" and spec.data.fields.rows is None and _is_row(text, 0, spec)


def _row(document: _Document, file: str, key: str | None = None) -> Record:
    document.peek()
    line, at = document.line, document.position
    raw = document.value()
    if len(raw) > MAX_LINE_BYTES:
        return replace(records.too_long(file, line, MAX_LINE_BYTES, raw, at), key=key)
    return Record(line, None, raw, (), at, key, encoded=True)


def _break(document: _Document, stream: RawStream, file: str, error: json.JSONDecodeError | RecursionError) -> Record:
    """Return the record for the break and everything after it."""
    line, at = document.line, document.position
    remaining = document.text[at : at + SHOWN].encode("latin-1")
    if stream.problem:
        return records.broken_stream(stream, file, line, remaining, at)
    reason, offset = "the JSON is nested too deeply", at
    if isinstance(error, json.JSONDecodeError):
        reason, offset = error.msg, error.pos
    total = len(document.text)
    if isinstance(error, json.JSONDecodeError) and ends_early(error):
        message = f"the document is cut off at its end, byte {total}: {reason}; all complete rows before it were read"
        return records.unreadable("bad_json", file, line, message, CUT_FIX, remaining, at, "rest")
    message = f"the document is broken at byte {offset}: {reason}; nothing after it was read: {1 - offset / total:.0%} of the file"
    fix = f"repair it there, or rewrite it with a JSON library; {CUT_FIX.rpartition('; ')[2]}"
    return records.unreadable("bad_json", file, line, message, fix, remaining, at, "rest")


def _rows_of_expression(
    data: bytes, begin: int, file: str, expression: str, notes: tuple[Finding, ...]
) -> Iterator[Record]:
    """Read the rows that an expression finds in the whole document; `line` is then the row number."""
    value, findings, readable = decode_line(data[begin:], f"{file}:1", begin)
    if not readable or findings:
        yield Record(1, None, data[:SHOWN], tuple(findings))
        return
    try:
        rows = compile_expression(expression)[0](value, file, None)
        rule, why = "missing_field", "" if isinstance(rows, list) else f"gives {quoted(rows)}, not a list of rows"
    except EXPRESSION_ERRORS as error:
        rows, rule, why = [], "field_expression", f"cannot be evaluated: {quoted(str(error), 160)}"
    if why:
        message = f"data.fields.rows: {expression!r} {why}"
        yield records.unreadable(rule, file, 1, message, "correct the expression", data)
        return
    for number, row in enumerate(rows, 1):
        yield Record(number, None, msgspec.json.encode(row), notes if number == 1 else (), encoded=True)
