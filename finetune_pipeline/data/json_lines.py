"""JSON Lines files: lines of unknown origin are read as bytes with a cap, our own rows strictly."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.engine.store import digest_file

MAX_LINE_BYTES = 8 * 1024 * 1024
_BLANK = b" \t\r\n"


def is_blank(line: bytes) -> bool:
    """True for a line of nothing but JSON white space."""
    return not line.strip(_BLANK)


def read_lines(path: Path, limit: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes, bool]]:
    """(line number from 1, bytes without the line end, cut) of every line, in constant memory.

    A line longer than `limit` bytes comes with its first `limit` bytes and ``cut=True``; the rest is skipped.
    """
    with path.open("rb") as handle:
        number = 0
        while line := handle.readline(limit + 1):
            number += 1
            cut = len(line) > limit and not line.endswith(b"\n")
            if cut:
                while (rest := handle.readline(limit)) and not rest.endswith(b"\n"):
                    pass
                line = line[:limit]
            yield number, line.rstrip(b"\r\n"), cut


def read_blocks_of_lines(path: Path, size: int = 8 << 20) -> Iterator[bytes]:
    """The file in blocks of whole lines of about `size` bytes."""
    with path.open("rb") as handle:
        while block := handle.read(size):
            yield block + handle.readline()


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write one JSON object a line (UTF-8, keys in the order given). Returns the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("wb") as out:
        for row in rows:
            out.write(msgspec.json.encode(row) + b"\n")
            count += 1
    return count


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a file this pipeline wrote. Raises ValueError naming file and line of what is not a JSON object."""
    rows = []
    for number, line, cut in read_lines(path, limit=1 << 30):
        if is_blank(line):
            continue
        try:
            row = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        if cut or not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: the line is not one JSON object")
        rows.append(row)
    return rows


def digest_files(files: Iterable[tuple[str, Path]]) -> str:
    """Hex SHA-256 over (name, content) pairs in the order given; no pair can be mistaken for another."""
    return combine_digests((name, digest_file(path)) for name, path in files)


def combine_digests(digests: Iterable[tuple[str, str]]) -> str:
    """Hex SHA-256 over (name, hex SHA-256 of the content) pairs in the order given."""
    whole = hashlib.sha256()
    for name, digest in digests:
        plain = name.encode("utf-8", "surrogateescape")
        whole.update(f"{len(plain)}:".encode() + plain + digest.encode())
    return whole.hexdigest()
