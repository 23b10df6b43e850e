"""Byte stream and lines of a raw file, and the record type that every reader returns."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec

from finetune_pipeline.findings import Finding, Severity

BOM = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
_GZIP_PIECE = 1 << 13
_BUFFER = 1 << 16
BLANKS = b" \t\r\n"
"""JSON's whitespace."""
_MANY_BLANK = 64
SHOWN = 8000
"""Bytes kept of an unreadable row; the quarantine shows part of them."""
CUT_FIX = "copy or download the file again; to go on with what was read: `data: {allow_truncated: true}` in task.yaml"
About = Literal["row", "rest", "file"]


class RawStream(io.RawIOBase):
    """Streams a file as UTF-8 in constant memory, and unpacks gzip, recognised by its first bytes. A broken or truncated
    gzip file yields everything before the break; `problem` then describes it."""

    def __init__(
        self,
        path: Path,
        encoding: str = "utf-8",
        returns: bool = False,
        limit: int | None = None,
        source: io.RawIOBase | None = None,
    ) -> None:
        """Open a file. encoding: undecodable bytes become U+FFFD; UTF-8 passes through unchanged. returns: lines end with a
        carriage return only. limit: bytes a gzip file may unpack to; reading stops there and sets `too_large`. source: the opened
        file, which is closed with the stream."""
        self.problem = ""
        self.too_large = False
        self._file = path.open("rb") if source is None else io.BufferedReader(source, _BUFFER)
        self._packed, self._unpacked = path.stat().st_size, 0
        self.compressed = self._file.peek(2)[:2] == GZIP
        self._limit = limit if self.compressed else None
        self._source: Any = gzip.GzipFile(fileobj=self._file) if self.compressed else self._file
        self._decode = None if is_utf8(encoding) else codecs.getincrementaldecoder(encoding)("replace").decode
        self._line_end = (b"\r", b"\n") if returns else None
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._decode is None:
            data = self._read(len(buffer))
        else:
            ended = False
            while not self._pending and not ended:
                block = self._read(_GZIP_PIECE)
                ended = not block
                try:  # half a character at the end becomes U+FFFD
                    self._pending = self._decode(block, ended).encode("utf-8", "surrogatepass")
                except UnicodeError as error:  # from codecs that need a byte order mark
                    self.problem = f"the text is not in the declared encoding: {error}"
            data, self._pending = self._pending[: len(buffer)], self._pending[len(buffer) :]
        buffer[: len(data)] = data.replace(*self._line_end) if self._line_end else data
        return len(data)

    def _read(self, size: int) -> bytes:
        """Return the next bytes of the file, unpacked; none at its end or after a break."""
        if self.problem:
            return b""
        try:
            data: bytes = self._source.read1(min(size, _GZIP_PIECE) if self.compressed else size)
        except EOFError:
            self.problem = f"the gzip file is cut off: its {self._packed} bytes end before the text does"
            return b""
        except (gzip.BadGzipFile, zlib.error) as error:
            share = self._file.tell() / max(1, self._packed)
            self.problem = f"the gzip file is broken {share:.0%} of the way in: {error}"
            return b""
        self._unpacked += len(data)
        if self._limit is not None and self._unpacked > self._limit:
            self.problem, self.too_large = "the gzip file unpacks to more than the limit", True
            return b""
        return data

    def close(self) -> None:
        self._file.close()
        super().close()

    def buffered(self) -> io.BufferedReader:
        """Return the stream with a buffer, for reading lines or exact lengths."""
        return io.BufferedReader(self, _BUFFER)


class Line(msgspec.Struct, frozen=True, dict=True):
    """A line with its line end: number from 1, byte offset, bytes in UTF-8. cut: the line is longer than the limit, and
    `data` is only its beginning. marked: a byte order mark, which is left out, came before it, as where files were joined."""

    number: int
    at: int
    data: bytes
    cut: bool = False
    marked: bool = False

    @cached_property
    def text(self) -> str:
        """The line's text; bytes that are not UTF-8 become lone surrogates."""
        return self.data.decode("utf-8", "surrogateescape")


def read_lines(source: io.BufferedReader, limit: int, blanks: int = 0) -> Iterator[Line]:
    """Yield the lines of a text in constant memory: only the first `blanks` of a run of blank lines, and only the first
    `limit` bytes of a longer line."""
    number = at = blank = 0
    while data := source.readline(limit + 1):
        number, begin, at = number + 1, at, at + len(data)
        cut = len(data) > limit and not data.endswith(b"\n")
        tail = data
        while cut and not tail.endswith(b"\n") and (tail := source.readline(limit)):
            at += len(tail)
        if marked := data.startswith(BOM):
            data, begin = data[len(BOM) :], begin + len(BOM)
        if data.strip(BLANKS):
            yield Line(number, begin, data, cut, marked)
            blank = 0
            continue
        blank += 1
        if blank <= blanks:
            yield Line(number, begin, data)
        while blank > max(blanks, _MANY_BLANK) and (block := source.peek()):
            lines = block[: len(block) - len(block.lstrip(BLANKS))].rpartition(b"\n")[0]
            if not lines:
                break
            source.read(len(lines) + 1)
            number, at = number + lines.count(b"\n") + 1, at + len(lines) + 1


def is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


class Record(msgspec.Struct, frozen=True):
    """One row of a raw file, or a finding about more than a row.

    Attributes:
        line: Line where the row starts, from 1. In a Parquet file: the number of the row.
        value: The row's value. None if it cannot be read (see `findings`) or if it is `encoded`.
        raw: The row's bytes.
        findings: Problems the reader found.
        at: Byte offset of `raw` in the unpacked file, if known.
        key: In a JSON document that is an object of lists: the key of the row's list.
        encoded: The value is still to be decoded from the JSON in `raw`.
        flat: The values are cells of a table, so an empty text means "no value".
        about: `rest`: the row is broken, and nothing after it was read. `file`: not a row, but findings about the file.
        item: In a single-line JSON document: the row number.
    """

    line: int
    value: Any
    raw: bytes
    findings: tuple[Finding, ...] = ()
    at: int | None = None
    key: str | None = None
    encoded: bool = False
    flat: bool = False
    about: About = "row"
    item: int | None = None


def unreadable(
    rule: str,
    file: str,
    line: int,
    message: str,
    fix: str,
    raw: bytes = b"",
    at: int | None = None,
    about: About = "row",
) -> Record:
    """Make a record for unreadable content, with a finding that gives the reason."""
    finding = Finding(f"data.{rule}", "error", f"{file}:{line}", message, fix)
    return Record(line, None, raw[:SHOWN], (finding,), at, about=about)


def about_file(rule: str, file: str, message: str, fix: str, severity: Severity = "error") -> Record:
    """Make a record with a finding about a file rather than a row."""
    return Record(1, None, b"", (Finding(f"data.{rule}", severity, file, message, fix),), about="file")


def broken_stream(stream: RawStream, file: str, line: int, raw: bytes = b"", at: int | None = None) -> Record:
    """Make the record for everything after the point where a stream broke off."""
    rule, fix = "invalid_encoding", "correct data.csv.encoding in task.yaml"
    if "gzip" in stream.problem:
        rule, fix = "bad_gzip", CUT_FIX
    message = f"{stream.problem}; only what came before line {line} was read"
    return unreadable(rule, file, line, message, fix, raw, at, "rest")


def broken_file(rule: str, file: str, file_type: str, rows: int, reason: str, fix: str) -> Record:
    """Make the record for a file that cannot be read at all, or only its first `rows` rows."""
    if not rows:
        return about_file(rule, file, f"the {file_type} cannot be read: {reason}", fix)
    message = f"the {file_type} cannot be read after row {rows}: {reason}"
    return unreadable(rule, file, rows + 1, message, CUT_FIX, about="rest")


def too_large(file: str, size: int, rows: int = 0) -> Record:
    """Make the record for a file that unpacks to more than the limit. rows: those read before this was noticed."""
    read = f"it was read up to row {rows}" if rows else "nothing of it was read"
    message = f"it unpacks to {size / (1 << 30):.1f} GiB or more; {read}"
    fix = "make the file smaller, or raise data.max_unpacked_gib in task.yaml"
    return about_file("unpacked_too_large", file, message, fix)


def too_long(file: str, line: int, limit: int, raw: bytes, at: int | None) -> Record:
    message = f"the line is longer than {limit} bytes"
    return unreadable("line_too_long", file, line, message, "write one row per line", raw, at)


def byte_order_mark(file: str, line: int = 1) -> Finding:
    message, fix = "a byte order mark comes before the row", "nothing to do: it was skipped"
    return Finding("data.byte_order_mark", "note", f"{file}:{line}", message, fix)
