"""Other encodings than UTF-8, turned into UTF-8 on the way in."""

from __future__ import annotations

import codecs
from typing import Protocol

_UTF8 = ("utf-8", "utf-8-sig")
_MARK = "finetune-pipeline-mark"


class Bytes(Protocol):
    """Something that gives bytes piece by piece; `problem` says why it ended too early, if it did."""

    problem: str

    def read(self, size: int) -> bytes: ...


def _mark(error: UnicodeError) -> tuple[str, int]:
    """Half of a surrogate pair where bytes could not be decoded: the row is then found not to be text."""
    return "\udc80", getattr(error, "end", 1)


codecs.register_error(_MARK, _mark)


class Transcoded:
    """A stream in another encoding, as UTF-8. What is wrong in it is wrong in the UTF-8 too."""

    def __init__(self, stream: Bytes, encoding: str) -> None:
        self._stream = stream
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)(_MARK)
        self.problem = ""

    def read(self, size: int) -> bytes:
        """Some bytes; nothing at the end only."""
        while not self.problem:
            piece = self._stream.read(size)
            try:
                text = self._decoder.decode(piece, not piece)
            except UnicodeError as error:
                self.problem = f"the file is no {self._encoding}: {error}"
                return b""
            if not piece:
                self.problem = self._stream.problem
            if text or not piece:
                return text.encode("utf-8", "surrogatepass")
        return b""


def check_encoding(name: str) -> str:
    """What is wrong with the name of an encoding, empty when nothing is."""
    try:
        text_encoding = codecs.lookup(name)._is_text_encoding
        codecs.getincrementaldecoder(name)
    except (LookupError, UnicodeError, ValueError):
        return f"no encoding is called {name!r}"
    return "" if text_encoding else f"{name!r} is no encoding of text"


def head_as_utf8(head: bytes, encoding: str) -> tuple[bytes, str]:
    """(the beginning of a file in another encoding as UTF-8, what is wrong with it).

    A character that is cut off at its end is left out.
    """
    if is_utf8(encoding):
        return head, ""
    try:
        text = codecs.getincrementaldecoder(encoding)(_MARK).decode(head)
    except UnicodeError as error:
        return b"", f"the file is no {encoding}: {error}"
    return text.encode("utf-8", "surrogatepass"), ""


def is_utf8(encoding: str) -> bool:
    """Whether a declared encoding is UTF-8."""
    return codecs.lookup(encoding).name in _UTF8


def as_utf8(stream: Bytes, encoding: str) -> Bytes:
    """The stream itself where it is declared to be UTF-8, else a stream of UTF-8."""
    return stream if is_utf8(encoding) else Transcoded(stream, encoding)
