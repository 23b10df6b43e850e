"""The bytes of a raw file, unpacked where it is gzipped, and its lines."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
