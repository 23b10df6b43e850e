"""The bytes of a file piece by piece, unpacked where they are gzipped."""

from __future__ import annotations

import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

GZIP = b"\x1f\x8b"
_PIECE = 1 << 14
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


class RawStream:
    """Reads a file, plain or gzipped (told by its first bytes, not by its name), in bounded memory.

    A gzip file that is broken or cut off gives what could be unpacked before that; then `problem` says what happened.
    """

    def __init__(self, path: Path) -> None:
        self._handle = path.open("rb")
        head = self._handle.read(2)
        self._handle.seek(0)
        self.compressed = head == GZIP
        self.problem = ""
        self._unpack = zlib.decompressobj(_GZIP_WINDOW) if self.compressed else None
        self._packed = b""
        self._begun = False

    def __enter__(self) -> RawStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.close()

    def read(self, size: int) -> bytes:
        """At most `size` bytes; nothing at the end only."""
        if not self.compressed:
            return self._handle.read(size)
        while not self.problem:
            if not self._packed:
                self._packed = self._handle.read(_PIECE)
                if not self._packed:
                    if self._unpack is not None and self._begun and not self._unpack.eof:
                        self.problem = "the gzip file is cut off"
                    return b""
            out = self._unpacked(size)
            if out:
                return out
        return b""

    def _unpacked(self, size: int) -> bytes:
        """Unpack some of what was read; a gzip file may hold several members one after the other."""
        if self._unpack is None or self._unpack.eof:
            self._packed = self._packed.lstrip(b"\0")  # padding between members is allowed
            if not self._packed:
                return b""
            self._unpack = zlib.decompressobj(_GZIP_WINDOW)
        self._begun = True
        before = self._unpack.copy()
        try:
            out = self._unpack.decompress(self._packed, size)
        except zlib.error as error:
            self.problem = f"the gzip file is broken: {error}"
            return _up_to_the_fault(before, self._packed)
        self._packed = self._unpack.unused_data if self._unpack.eof else self._unpack.unconsumed_tail
        return out


def _up_to_the_fault(unpack: Any, packed: bytes) -> bytes:
    """What can be unpacked of a piece that is broken somewhere."""
    out = bytearray()
    for at in range(len(packed)):
        try:
            out += unpack.decompress(packed[at : at + 1])
        except zlib.error:
            break
    return bytes(out)
