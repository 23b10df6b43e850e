"""The byte stream of a raw file, its lines, and the records that every reader returns."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_pipeline.findings import Finding

BOM = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
_GZIP_PIECE = 1 << 13
_BUFFER = 1 << 20


class RawStream(io.RawIOBase):
    """A file's bytes in constant memory; gzip is recognised by its first bytes, not by the file's name.

    A gzip file that is broken or cut off gives what can be unpacked before the break; then `problem` says what happened.
    """

    def __init__(self, path: Path) -> None:
        self.problem = ""
        self._file = path.open("rb")
        self.compressed = self._file.peek(2)[:2] == GZIP
        self._source: Any = gzip.GzipFile(fileobj=self._file) if self.compressed else self._file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.problem:
            return 0
        try:
            data = self._source.read1(min(len(buffer), _GZIP_PIECE) if self.compressed else len(buffer))
        except EOFError:
            self.problem = "the gzip file is cut off"
            return 0
        except (gzip.BadGzipFile, zlib.error) as error:
            self.problem = f"the gzip file is broken: {error}"
            return 0
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()

    def buffered(self) -> io.BufferedReader:
        """The stream with a buffer, for reading lines or exact lengths."""
        return io.BufferedReader(self, _BUFFER)


@dataclass(frozen=True, slots=True)
class Line:
    """A line with its line end: number from 1, byte offset, text.

    cut: the line is longer than the limit, and only its beginning is here.
    """

    number: int
    at: int
    text: str
    cut: bool = False

    def encoded(self) -> bytes:
        """The line's bytes in UTF-8; bytes that were no text in the file come out as they went in."""
        return self.text.encode("utf-8", "surrogateescape")


def read_lines(stream: RawStream, encoding: str, limit: int) -> Iterator[Line]:
    """The lines of a text, in constant memory.

    Bytes that are not UTF-8 stand as lone surrogates; in any other encoding as U+FFFD. What cannot be decoded at all ends
    the text and is the stream's `problem`. A last line that a broken stream cut off is given, too.
    """
    errors = "surrogateescape" if is_utf8(encoding) else "replace"
    text = io.TextIOWrapper(stream.buffered(), encoding, errors, newline="")
    number, at = 1, 0
    try:
        while line := text.readline(limit + 1):
            cut = len(line) > limit and not line.endswith(("\n", "\r"))
            yield Line(number, at, line, cut)
            at += _width(line)
            while cut and (rest := text.readline(limit)):
                at += _width(rest)
                cut = not rest.endswith(("\n", "\r"))
            number += 1
    except UnicodeError as error:
        stream.problem = f"the file is not {encoding}: {error}"


def _width(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


SHOWN = 8000
"""Bytes kept of what cannot be read; the quarantine shows a part of them."""


@dataclass(frozen=True)
class Record:
    """One row of a raw file.

    Attributes:
        line: Line where the row starts, from 1. In a Parquet file: the number of the row.
        value: The row's value. None when it cannot be read (then `findings` say why) or when it is `encoded`.
        raw: The row's bytes.
        findings: Problems the reader found.
        at: Byte offset of `raw` in the unpacked file, where there is one.
        key: In a JSON document that is an object of lists: the key of the list the row stands in.
        encoded: The value is still to be decoded from the JSON in `raw`.
        flat: The values are cells of a table, so an empty text means "no value".
    """

    line: int
    value: Any
    raw: bytes
    findings: tuple[Finding, ...] = ()
    at: int | None = None
    key: str | None = None
    encoded: bool = False
    flat: bool = False


def unreadable(
    rule: str, file: str, line: int, message: str, fix: str, raw: bytes = b"", at: int | None = None
) -> Record:
    """A record that stands for something that cannot be read, with the finding that says why."""
    return Record(line, None, raw[:SHOWN], (Finding(f"data.{rule}", "error", f"{file}:{line}", message, fix),), at)


def broken_stream(stream: RawStream, file: str, line: int, raw: bytes = b"", at: int | None = None) -> Record:
    """The record that stands for everything behind the place where a stream broke off."""
    rule = "bad_gzip" if "gzip" in stream.problem else "invalid_encoding"
    message = f"{stream.problem}; what came before line {line} was read"
    fix = (
        "copy or download the file again" if rule == "bad_gzip" else "declare the right data.csv.encoding in task.yaml"
    )
    return unreadable(rule, file, line, message, fix, raw, at)


def too_long(file: str, line: int, limit: int, raw: bytes, at: int) -> Record:
    """The record that stands for a line longer than a row may be."""
    message = f"the line is longer than {limit} bytes"
    return unreadable("line_too_long", file, line, message, "write one row a line", raw, at)


def byte_order_mark(file: str) -> Finding:
    """The note about a byte order mark."""
    message, fix = "the file starts with a byte order mark", "nothing to do; it was left out"
    return Finding("data.byte_order_mark", "note", f"{file}:1", message, fix)
