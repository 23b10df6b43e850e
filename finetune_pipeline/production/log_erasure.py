"""Takes single lines out of log files that somebody may be writing to: each is overwritten where it stands, with blanks.

Length, offsets and all other lines stay, so a writer that appends loses nothing, and what was read stays read. A first
line, by which the file is recognised, becomes a mark of its own, and the ledger learns the new name before.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.data.json_lines import is_blank
from finetune_pipeline.production.log_files import LineReader, LogFile, hash_line, opened

MARK = b'{"forgotten": '

Wanted = Callable[[Any], bool]


def erase(file: LogFile, wanted: Wanted, renamed: Callable[[str, str, list[list[Any]]], None]) -> int:
    """Overwrite every line whose decoded object is wanted. Returns how many there were.

    renamed(hash of the first line, the same afterwards, tails afterwards): called before the file changes; tails are those
    the ledger keeps of a file. The file must lie on this machine. May be repeated. Raises RuntimeError when the file was
    rotated meanwhile.
    """
    path = Path(file.path)
    places, zipped = _places(file, wanted)
    if not places:
        return 0
    with opened(file) as handle:
        before = handle.read()
    after = _blanked(before, places)
    renamed(_first(before), _first(after), _tails(after))
    if zipped:
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(gzip.compress(after))
        os.replace(temporary, path)
        return len(places)
    written = os.open(path, os.O_RDWR)
    try:
        for start, length in places:
            if os.pread(written, length, start) != before[start : start + length]:
                raise RuntimeError(f"{path} was rotated while rows were removed from it; run this again")
            os.pwrite(written, after[start : start + length], start)
        os.fsync(written)
    finally:
        os.close(written)
    return len(places)


def _places(file: LogFile, wanted: Wanted) -> tuple[list[tuple[int, int]], bool]:
    """(start, length without the line end) of the wanted lines, and whether the file is gzipped."""
    found = []
    with opened(file) as handle:
        reader, start = LineReader(handle, 0), 0
        for line, cut in reader:
            if not cut and not is_blank(line) and wanted(_decoded(line)):
                found.append((start, reader.offset - start - 1))
            start = reader.offset
        return found, isinstance(handle, gzip.GzipFile)


def _decoded(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _blanked(data: bytes, places: list[tuple[int, int]]) -> bytes:
    """The bytes with blanks in these places; in the first line a mark that no other file has."""
    changed = bytearray(data)
    for start, length in places:
        mark = MARK + json.dumps(secrets.token_hex(8)).encode() + b"}" if start == 0 else b""
        changed[start : start + length] = (mark if len(mark) <= length else b"").ljust(length)
    return bytes(changed)


def _first(data: bytes) -> str:
    line, _ = next(iter(LineReader(io.BytesIO(data), 0)))
    return hash_line(line)


def _tails(data: bytes) -> list[list[Any]]:
    """The tails the ledger keeps: after every line whose number is a power of two, and after the last."""
    reader, tails, number = LineReader(io.BytesIO(data), 0), [], 0
    for _ in reader:
        number += 1
        if number & (number - 1) == 0:
            tails.append([reader.offset, reader.tail])
    return [t for t in tails if t[0] != reader.offset] + ([[reader.offset, reader.tail]] if number else [])
