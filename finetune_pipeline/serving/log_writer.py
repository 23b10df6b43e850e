"""Writes production's log: whole lines, in a file that is rotated by size, from several threads and processes."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec

from finetune_pipeline.data.json_lines import read_lines

NAME = "served.jsonl"


class _Id(msgspec.Struct):
    id: str
    output: str | None = None


class LogWriter:
    """Appends rows to ``served.jsonl`` of a folder. At `rotate_bytes` it is renamed to ``served.jsonl.<time>``."""

    def __init__(self, folder: Path, rotate_bytes: int = 64 << 20) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        self._rotate_bytes = rotate_bytes
        self._lock = Lock()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row; it is with the kernel when this returns. Raises OSError when it cannot be written.

        What a process that died, or a full disk, left of a line is ended first, so that it spoils no other.
        """
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        with self._lock, self.path.with_name(".served.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                size = os.fstat(handle).st_size
                if size and os.pread(handle, 1, size - 1) != b"\n":
                    line = b"\n" + line
                while line:
                    line = line[os.write(handle, line) :]
                size = os.fstat(handle).st_size
            finally:
                os.close(handle)
            if size >= self._rotate_bytes:
                self._rotate()

    def _rotate(self) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        os.rename(self.path, self.path.with_name(f"{NAME}.{stamp}"))

    def ids(self) -> Iterator[str]:
        """Ids of the answers in the files that are there."""
        for path in sorted(self.path.parent.glob(f"{NAME}*")):
            for _, line, cut in read_lines(path):
                try:
                    row = msgspec.json.decode(line, type=_Id)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue  # the intake tells what is wrong with it
                if row.output is not None and not cut:
                    yield row.id
