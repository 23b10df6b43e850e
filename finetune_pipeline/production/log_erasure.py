"""Removes lines from log files: each file is rewritten without them, and the new file replaces the old one.

A process that appends to the old file would go on writing to a deleted file, so a file that is still being written is
refused. `finetune serve` reopens its log for every row under a lock, which is also taken here.
"""

import contextlib
import gzip
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil

from finetune_pipeline.engine.files import hold, sync_folder
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.production.log_files import (
    BROKEN_OFF,
    NOTHING_READ,
    SERVED,
    SERVED_LOCK,
    LineReader,
    LogFile,
    hash_line,
    opened,
    rows_in,
)
from finetune_pipeline.production.log_intake import stream_of
from finetune_pipeline.production.log_rows import users_named
from finetune_pipeline.production.log_store import LogStore

QUIET_S = 10.0
"""Seconds without a change after which a file that no visible process has open counts as finished."""

RowTest = Callable[[Any], bool]


def count_lines(file: LogFile, matches: RowTest) -> int:
    """Count the matching lines of a file. Raises OutsideError if it cannot be unpacked to its end."""
    try:
        with opened(file) as handle:
            return sum(_matches_line(line, matches) for line, _ in LineReader(handle))
    except BROKEN_OFF as error:
        raise OutsideError(
            f"{file.path} is damaged or still being written, or not packed by gzip ({error}): nobody can tell whose rows it "
            "contains\nfix: put a whole copy in its place, plain or gzipped, or delete it, and run this again; the rows are "
            "no longer ingested"
        ) from error


def writer_of(file: LogFile) -> str | None:
    """Describe the process that is still writing a file; None if none is visible."""
    path = Path(file.path)
    if path.name.startswith(SERVED):
        return None  # reopened for every row, under a lock
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error, OSError):
            if any(f.path == str(path.resolve()) and f.mode not in ("r", "") for f in process.open_files()):
                return f"process {process.pid} ({process.info['name']}) has it open"
    age = abs(time.time() - path.stat().st_mtime)  # a clock may have been set back since
    return f"it changed {age:.0f} s ago" if age < QUIET_S else None


def erase(file: LogFile, matches: RowTest, log_store: LogStore) -> int:
    """Rewrite a file on this machine without the matching lines, and return their number. It may be repeated. Ingested lines
    are not read again: the ledger records the new content before it is put in place.

    log_store: the task's log store; the caller holds its lock. Raises OutsideError if the file changed while it was
    rewritten.
    """
    path = Path(file.path).resolve()  # a link stays one
    lock = Path(file.path).with_name(SERVED_LOCK)
    with hold(lock) if lock.exists() else contextlib.nullcontext():
        before = path.stat()
        with opened(file) as handle:
            ledger = log_store.ledger()
            name = stream_of(handle, ledger["streams"])
            handle.seek(0)
            data = handle.read()
            zipped = isinstance(handle, gzip.GzipFile)
        read_to = ledger["streams"].get(name or "", NOTHING_READ)["offset"]
        read_part, unread_part, removed = _remove_lines(data, read_to, matches)
        if not removed:
            return 0
        if read_part:
            reader = LineReader(io.BytesIO(read_part))
            lines = [line for line, _ in reader]
            first_hash = hash_line(lines[0])
            number = sum(stream.startswith(f"{first_hash}-") for stream in ledger["streams"])
            ledger["streams"][f"{first_hash}-{number}"] = reader.entry()
            log_store.append([], ledger)
        temporary = path.with_name(f".{path.name}.tmp")
        content = read_part + unread_part
        temporary.unlink(missing_ok=True)
        # readable only by the owner from the start, since it contains other people's texts
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(gzip.compress(content) if zipped else content)
            out.flush()
            os.fsync(out.fileno())
            with contextlib.suppress(OSError):  # only root may: else its writer could no longer append to it
                os.fchown(out.fileno(), before.st_uid, before.st_gid)
            os.fchmod(out.fileno(), before.st_mode & 0o777)
        after = path.stat()
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            temporary.unlink()
            raise OutsideError(f"{path} changed while rows were removed from it; stop or rotate it and run this again")
        os.replace(temporary, path)
        sync_folder(path.parent)
    return removed


def _matches_line(line: bytes, matches: RowTest) -> bool:
    decoded: list[Any] = []
    for row in rows_in(line):
        try:
            decoded.append(msgspec.json.decode(row))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            decoded += [{"user": user} for user in users_named(row)]
    return any(map(matches, decoded))


def _remove_lines(data: bytes, read_to: int, matches: RowTest) -> tuple[bytes, bytes, int]:
    """Return (the remaining bytes before `read_to`, the remaining bytes after it, the number of removed lines)."""
    read_lines: list[bytes] = []
    unread_lines: list[bytes] = []
    start = removed = 0
    reader = LineReader(io.BytesIO(data))
    for line, _ in reader:
        if _matches_line(line, matches):
            removed += 1
        else:
            (read_lines if start < read_to else unread_lines).append(data[start : reader.offset])
        start = reader.offset
    return b"".join(read_lines), b"".join(unread_lines) + data[start:], removed
