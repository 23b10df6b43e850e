"""A JSON document walked value by value in bounded memory; broken values are told from what stands behind them."""

from __future__ import annotations

import json
import re
from typing import Literal

import msgspec

from finetune_pipeline.data.json_lines import MAX_LINE_BYTES
from finetune_pipeline.data.readers.raw_stream import RawStream

_BLANKS = re.compile(rb"[ \t\r\n]*+")
# everything up to the next bracket that stands in no string; a string ends on its own line
_FLAT = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\\n]++|\\[^\n])*+")*+')
_STRING = re.compile(rb'"(?:[^"\\\n]++|\\[^\n])*+"')
_SCALAR = re.compile(rb'[^,\]}{\["\s][^,\]}\n]*+')
_FIRST_KEY = re.compile(rb'\{\s*"((?:[^"\\\n]|\\.)*)"\s*:')
_FIRST_PAIR = re.compile(rb'\{\s*"((?:[^"\\\n]|\\.)*)"\s*:\s*(\S)')
_PIECE = 1 << 20
_DOUBT = 1 << 16
_TRIES = 64
State = Literal["whole", "cut", "torn", "long"]
_VALUE = msgspec.json.Decoder(msgspec.Raw)


class Cursor:
    """A place in a document: `position` counts in the bytes at hand, :meth:`offset` in the file."""

    def __init__(self, stream: RawStream) -> None:
        self._stream = stream
        self._data = b""
        self._base = 0
        self._over = False
        self.position = 0
        self._counted, self._line = 0, 1  # the line at this position of the bytes at hand
        self._key_hint: bytes | None = None

    @property
    def offset(self) -> int:
        """Byte offset in the file."""
        return self._base + self.position

    @property
    def line(self) -> int:
        """Line of the place, from 1."""
        self._line += self._data.count(b"\n", self._counted, self.position)
        self._counted = self.position
        return self._line

    def _more(self) -> bool:
        """Read on; what lies behind the place is dropped."""
        if self._over:
            return False
        piece = self._stream.read(_PIECE)
        if not piece:
            self._over = True
            return False
        _ = self.line
        self._base += self.position
        self._data = self._data[self.position :] + piece
        self.position = self._counted = 0
        return True

    def peek(self) -> int | None:
        """The next byte that is no blank, None at the end; the place moves to it."""
        while True:
            found = _BLANKS.match(self._data, self.position)
            self.position = found.end() if found else self.position
            if self.position < len(self._data):
                return self._data[self.position]
            if not self._more():
                return None

    def skip(self, count: int = 1) -> None:
        """Move on over bytes that are at hand."""
        self.position += count

    def skip_to(self, wanted: bytes) -> bytes:
        """Move to the next of the bytes in `wanted`, or to the end. Returns the first part of what lies between."""
        shown = b""
        pattern = re.compile(b"[" + re.escape(wanted) + b"]")
        while True:
            found = pattern.search(self._data, self.position)
            end = found.start() if found else len(self._data)
            shown = (shown + self._data[self.position : end])[:_DOUBT]
            self.position = end
            if found or not self._more():
                return shown

    def string(self) -> str | None:
        """The string that begins here, the place moving behind it; None (and no move) when there is none."""
        found = self._match_string()
        if found is None:
            return None
        self.position = found.end()
        try:
            return msgspec.json.decode(found[0], type=str)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return found[0][1:-1].decode("utf-8", "replace")

    def _match_string(self) -> re.Match[bytes] | None:
        while True:
            found = _STRING.match(self._data, self.position)
            if found:
                return found
            if self._data.find(b"\n", self.position) >= 0 or not self._grow():
                return None

    def first_pair(self) -> tuple[str | None, bool]:
        """(first key of the object that begins here, whether a list stands under it); the place stays."""
        while True:
            found = _FIRST_PAIR.match(self._data, self.position)
            if found:
                return found[1].decode("utf-8", "replace"), found[2] == b"["
            if len(self._data) - self.position > _DOUBT or not self._grow():
                return None, False

    def _grow(self) -> bool:
        """Read on within a value, unless it is too long already."""
        return len(self._data) - self.position <= MAX_LINE_BYTES and self._more()

    def value(self) -> tuple[bytes, State]:
        """(bytes of the value that begins here, what is with it); the place moves behind it.

        ``torn``: it is broken, and cut where the next one seems to begin, at an object with the same first key that can
        be read. ``cut``: the file ends within it. ``long``: it is longer than MAX_LINE_BYTES; its beginning is given.
        """
        first = self._data[self.position]
        if first == 0x22:
            found = self._match_string()
            if found is None:
                return self.skip_to(b"\n"), "whole"
            self.position = found.end()
            return found[0], "whole"
        if first not in b"[{":
            return self._scalar(), "whole"
        length, state = self._container()
        piece = self._data[self.position : self.position + length]
        if state == "whole" and not _is_broken(piece):
            if hint := _FIRST_KEY.match(piece):
                self._key_hint = hint[1]
        else:
            cut = self._next_value(piece)
            if cut is not None:
                piece, state = piece[:cut], "torn"
        self.position += len(piece)
        if state == "long":
            self._skip_container(piece)
        return piece, "long" if len(piece) > MAX_LINE_BYTES else state

    def _scalar(self) -> bytes:
        """A number, a word, or rubbish, up to the next comma, bracket or line end."""
        while True:
            found = _SCALAR.match(self._data, self.position)
            end = found.end() if found else self.position + 1
            if end < len(self._data) or not self._grow():
                break
        piece = self._data[self.position : end]
        self.position = end
        return piece.rstrip()

    def _container(self) -> tuple[int, State]:
        """(length, state) of the list or object that begins here. Looks now and then whether it is broken so far."""
        at, depth = 0, 0  # counted from the place, which stays where it is
        doubt = _DOUBT
        while True:
            at = _FLAT.match(self._data, self.position + at).end() - self.position  # type: ignore[union-attr]
            here = self.position + at
            if here >= len(self._data):
                if at > doubt:
                    doubt = 2 * at
                    piece = self._data[self.position :]
                    if _is_broken(piece, so_far=True) and self._next_value(piece) is not None:
                        return at, "cut"
                if not self._grow():
                    return len(self._data) - self.position, "cut" if self._over else "long"
                continue
            byte = self._data[here]
            if byte == 0x22:  # a string that does not end on its line, or that is not read to its end yet
                if self._data.find(b"\n", here) < 0 and self._grow():
                    continue
                at += 1
                continue
            depth += 1 if byte in b"[{" else -1
            at += 1
            if depth == 0:
                return at, "whole"

    def _skip_container(self, begun: bytes) -> None:
        """Move behind the end of a list or object whose beginning has been read, keeping nothing."""
        depth = _depth(begun)
        while depth > 0:
            self.position = _FLAT.match(self._data, self.position).end()  # type: ignore[union-attr]
            if self.position < len(self._data):
                byte = self._data[self.position]
                depth += 0 if byte == 0x22 else 1 if byte in b"[{" else -1
                self.position += 1
            elif not self._more():
                return

    def _next_value(self, piece: bytes) -> int | None:
        """Where in a broken piece the next value of the same kind begins, None if nowhere."""
        text = piece.decode("latin-1")  # a byte is a character: positions stay
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            begin = max(1, error.pos)
        except RecursionError:
            return None
        else:
            return None
        if piece[:1] == b"{":
            own = _FIRST_KEY.match(piece)
            key = own[1] if own else self._key_hint
            head = rb"\{\s*" + (rb'"' + re.escape(key) + rb'"\s*:' if key is not None else rb'"')
        else:
            head = rb"\["
        candidates = re.compile(rb"[,\n]\s*+(?=" + head + rb")")
        for tries, found in enumerate(candidates.finditer(piece, max(0, begin - 1 - _blanks_before(piece, begin)))):
            if tries == _TRIES:
                return None
            end = _end_of(piece, found.end())
            if found.end() >= begin and end is not None and not _is_broken(piece[found.end() : end]):
                return found.end()
        return None


def _blanks_before(piece: bytes, at: int) -> int:
    """How many blanks stand right before a place."""
    return at - len(piece[:at].rstrip())


def _depth(piece: bytes) -> int:
    """Brackets left open at the end of a piece."""
    at, depth = 0, 0
    while (at := _FLAT.match(piece, at).end()) < len(piece):  # type: ignore[union-attr]
        depth += 0 if piece[at] == 0x22 else 1 if piece[at] in b"[{" else -1
        at += 1
    return depth


def _end_of(piece: bytes, at: int) -> int | None:
    """Where the list or object that begins at `at` ends, None when it does not."""
    depth = 0
    while True:
        at = _FLAT.match(piece, at).end()  # type: ignore[union-attr]
        if at >= len(piece):
            return None
        if piece[at] != 0x22:
            depth += 1 if piece[at] in b"[{" else -1
        at += 1
        if depth == 0:
            return at


def _is_broken(piece: bytes, so_far: bool = False) -> bool:
    """Whether bytes are no JSON value; with `so_far`, whether nothing that follows could make them one."""
    if not so_far:
        try:
            _VALUE.decode(piece)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return True
        return False
    try:
        json.loads(piece.decode("latin-1"))
    except json.JSONDecodeError as error:
        return error.pos < len(piece) - 16 and not error.msg.startswith("Unterminated string")
    except RecursionError:
        return True
    return False
