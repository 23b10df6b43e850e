"""JSON Lines: blocks of whole lines."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from finetune_pipeline.data.json_lines import MAX_LINE_BYTES
from finetune_pipeline.data.readers.encodings import Bytes
from finetune_pipeline.data.readers.raw_stream import RawStream
from finetune_pipeline.data.readers.records import Block, Record, problem

SHOWN = 8000
"""Bytes kept of what could not be read; quarantine shows a part of them."""
_PIECE = 1 << 20
_COUNTED = 1 << 18


def read_json_lines(stream: RawStream, file: str, size: int) -> Iterator[Block]:
    """Blocks that end with the first line end at or after each multiple of `size` bytes.

    A line longer than MAX_LINE_BYTES is a block of its own, with a record that says so. A gzip file that ends too early
    ends with a record that says so; the piece of a line in front of it is part of that record.
    """
    lines = _Lines(stream)
    start, first = 0, 1  # byte and line the next block begins with
    while True:
        whole = lines.take(size - start % size - 1)
        if lines.over and stream.problem:
            whole = lines.give_back(whole, whole.rfind(b"\n") + 1)
        monster = _begin_of_monster(whole)
        if monster is not None:
            whole = lines.give_back(whole, monster)
        if whole:
            yield Block(file, "lines", first, whole, start=start)
            start, first = start + len(whole), first + count_lines(whole)
        if monster is not None:
            shown, length = lines.skip_line()
            finding = problem(
                "line_too_long",
                f"{file}:{first}",
                f"the line is longer than {MAX_LINE_BYTES} bytes",
                "one row a line; is the file JSON Lines at all?",
            )
            yield Block(file, "records", first, b"", (Record(first, None, shown, (finding,), start),), start)
            start, first = start + length, first + 1
        elif lines.over:
            break
    if stream.problem:
        record = broken_stream(stream, file, first, lines.rest()[:SHOWN], start)
        yield Block(file, "records", first, b"", (record,), start)


def count_lines(data: bytes) -> int:
    """Line ends in a piece of text."""
    array = np.frombuffer(data, np.uint8)
    return sum(int(np.count_nonzero(array[at : at + _COUNTED] == 10)) for at in range(0, len(array), _COUNTED))


class _Lines:
    """Bytes read and not yet given out, in pieces as they were read: a block is put together once."""

    def __init__(self, stream: RawStream) -> None:
        self._stream = stream
        self._pieces: list[bytes] = []
        self.over = False

    def _read(self) -> bytes:
        piece = self._stream.read(_PIECE)
        self.over = not piece
        return piece

    def take(self, begin: int) -> bytes:
        """The bytes up to the end of the first line that ends at or after `begin` (line end included).

        All there is where the file ends, or where the last line has grown too long.
        """
        taken: list[bytes] = []
        length = 0
        while piece := self._pieces.pop(0) if self._pieces else self._read():
            at = piece.find(b"\n", max(0, begin - length))
            if at >= 0:
                taken.append(piece[: at + 1])
                if rest := piece[at + 1 :]:
                    self._pieces.insert(0, rest)
                break
            taken.append(piece)
            length += len(piece)
            if length - begin > MAX_LINE_BYTES + 1:
                break
        return b"".join(taken)

    def give_back(self, taken: bytes, at: int) -> bytes:
        """Put back what was taken from `at` on; returns the rest."""
        if at < len(taken):
            self._pieces.insert(0, taken[at:])
        return taken[:at]

    def rest(self) -> bytes:
        """Everything that has been read and not been taken."""
        return b"".join(self._pieces)

    def skip_line(self) -> tuple[bytes, int]:
        """Take the first line away: (its first bytes, its length with the line end). Only a piece is in memory."""
        shown, length = b"", 0
        while piece := self._pieces.pop(0) if self._pieces else self._read():
            at = piece.find(b"\n")
            line = piece if at < 0 else piece[: at + 1]
            shown += line[: SHOWN - len(shown)]
            length += len(line)
            if at >= 0:
                if rest := piece[at + 1 :]:
                    self._pieces.insert(0, rest)
                break
        return shown, length


def _begin_of_monster(data: bytes) -> int | None:
    """Where the first line longer than MAX_LINE_BYTES begins, None when there is none."""
    begun, end = 0, len(data)
    while end - begun > MAX_LINE_BYTES:
        at = data.find(b"\n", begun)
        if (end if at < 0 else at) - begun > MAX_LINE_BYTES:
            return begun
        begun = at + 1
    return None


def broken_stream(stream: Bytes, file: str, line: int, rest: bytes = b"", at: int | None = None) -> Record:
    """The record that stands for whatever a stream that broke off has lost."""
    finding = problem(
        "bad_gzip" if "gzip" in stream.problem else "invalid_encoding",
        f"{file}:{line}",
        f"{stream.problem}; what came before line {line} was read",
        "copy or download the file again, or declare the right encoding",
    )
    return Record(line, None, rest, (finding,), at)
