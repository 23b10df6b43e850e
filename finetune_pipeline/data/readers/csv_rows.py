"""Rows of delimited text, read so that one wrong quote costs one line.

RFC 4180 with three additions: a quote that begins no field is an ordinary character; a quoted field that is never
closed, or closed in the middle of a field, makes its first line a broken row and reading goes on with the next line;
and so does a quoted field that has swallowed lines which are whole rows by themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

_AHEAD_LINES = 5000
_AHEAD_BYTES = 1 << 20

State = Literal["whole", "open", "torn"]


@dataclass(frozen=True)
class Line:
    """A line of a file without its line end: number from 1, byte offset, bytes."""

    number: int
    at: int
    data: bytes


@dataclass(frozen=True)
class Row:
    """One row: where it begins, the lines it takes, its cells; `broken`: ``quote`` when a quoted field is not closed
    rightly; `wrapped`: how many cells stood in quotes."""

    first: Line
    lines: int
    raw: bytes
    cells: list[str]
    broken: str = ""
    wrapped: int = 0


def split_row(text: str, delimiter: str, quote: str) -> tuple[list[str], State, int]:
    """(cells, state, cells that stood in quotes) of a row's text. `quote` is empty where quotes mean nothing.

    ``open``: a quoted cell does not end; ``torn``: something stands between a closing quote and the next delimiter.
    """
    if not quote or quote not in text:
        return text.split(delimiter), "whole", 0
    cells: list[str] = []
    at = wrapped = 0
    while True:
        if not text.startswith(quote, at):
            end = text.find(delimiter, at)
            if end < 0:
                cells.append(text[at:])
                return cells, "whole", wrapped
            cells.append(text[at:end])
            at = end + 1
            continue
        end = text.find(quote, at + 1)
        while end >= 0 and text.startswith(quote, end + 1):
            end = text.find(quote, end + 2)
        if end < 0:
            return cells, "open", wrapped
        cells.append(text[at + 1 : end].replace(2 * quote, quote))
        wrapped += 1
        if end + 1 == len(text):
            return cells, "whole", wrapped
        if text[end + 1] != delimiter:
            return cells, "torn", wrapped
        at = end + 2


def read_rows(
    lines: Iterable[Line],
    delimiter: str,
    quote: str,
    fields: int | None = None,
    is_row: Callable[[list[str]], bool | None] | None = None,
) -> Iterator[Row]:
    """The rows of lines that are not blank.

    `fields`: cells a whole row has; `is_row`: whether cells can be a row by themselves (None: cannot be told).
    """
    source = iter(lines)
    ahead: deque[Line] = deque()
    while True:
        line = ahead.popleft() if ahead else next(source, None)
        if line is None:
            return
        if not line.data.strip():
            continue
        cells, state, wrapped = split_row(_text(line.data), delimiter, quote)
        if state == "whole":
            yield Row(line, 1, line.data, cells, wrapped=wrapped)
            continue
        taken = _close(line, ahead, source, delimiter, quote) if state == "open" else None
        if taken is not None:
            own, raw, cells, wrapped = taken
            if (fields is None or len(cells) == fields) and not _swallowed(own, delimiter, fields, is_row):
                yield Row(line, len(own), raw, cells, wrapped=wrapped)
                for _ in own[1:]:
                    ahead.popleft()
                continue
        yield Row(line, 1, line.data, [], "quote")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _close(
    first: Line, ahead: deque[Line], source: Iterator[Line], delimiter: str, quote: str
) -> tuple[list[Line], bytes, list[str], int] | None:
    """The lines up to the one that closes the open quote of the first line, with what they say; they stay in `ahead`.

    None when none does, or when the quote is closed in the middle of a cell.
    """
    own, size, mark = [first], len(first.data), quote.encode()
    while len(own) < _AHEAD_LINES and size < _AHEAD_BYTES:
        if len(ahead) < len(own):
            line = next(source, None)
            if line is None:
                return None
            ahead.append(line)
        line = ahead[len(own) - 1]
        own.append(line)
        size += len(line.data) + 1
        if mark not in line.data:
            continue
        raw = b"\n".join(each.data for each in own)
        cells, state, wrapped = split_row(_text(raw), delimiter, quote)
        if state == "whole":
            return own, raw, cells, wrapped
        if state == "torn":
            return None
    return None


def _swallowed(
    own: list[Line], delimiter: str, fields: int | None, is_row: Callable[[list[str]], bool | None] | None
) -> bool:
    """Whether a quoted cell over several lines is rather a stray quote in front of lines that are rows themselves.

    Each line must have a row's number of cells when quotes mean nothing. Then known labels decide; without them, in a
    table with commas (which prose is full of) it takes three lines to be sure.
    """
    if fields is None:
        return False
    alone = [_text(line.data).split(delimiter) for line in own]
    if any(len(cells) != fields for cells in alone):
        return False
    verdicts = [is_row(cells) if is_row else None for cells in alone]
    if None not in verdicts:
        return all(verdicts)
    return delimiter != "," or len(own) > 2
