"""Removes lines from log files: each file is rewritten without them, and the new file replaces the old one.

A process that appends to the old file would go on writing to a deleted file, so a file that is still being written is
refused. `finetune serve` reopens its log for every row under a lock, which is also taken here.
"""

import contextlib
import gzip
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

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
from finetune_pipeline.production.log_owners import OwnerTest, is_json, owners_of, without
from finetune_pipeline.production.log_store import LogLedger, LogStore

QUIET_S = 10.0
"""Seconds without a change after which a file that no visible process has open counts as finished."""
_PIECE = 1 << 20
"""Bytes copied at a time."""


@dataclass(frozen=True)
class LinesOf:
    """What a search of a file for a person's lines found.

    Attributes:
        count: Number of lines with a record of theirs.
        unclear: Numbers of the other lines that are too long or not JSON, and name nobody or hold the person's name.
    """

    count: int
    unclear: list[int]


def find_lines(file: LogFile, matches: OwnerTest, names: Collection[str]) -> LinesOf:
    """Search a file for a person's lines. names: as the logs write them. Raises OutsideError if the file cannot be unpacked
    to its end."""
    spellings = [spelling.encode() for name in names for spelling in {name, json.dumps(name)[1:-1]}]
    count, unclear = 0, []
    try:
        with opened(file) as handle:
            reader = LineReader(handle)
            for line, is_cut in reader:
                rows = rows_in(line)
                if any(without(row, matches) != row for row in rows):
                    count += 1
                elif is_cut or any(_is_unclear(row, spellings) for row in rows):
                    unclear.append(reader.lines)
        return LinesOf(count, unclear)
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


def _is_unclear(row: bytes, spellings: list[bytes]) -> bool:
    return not is_json(row) and (not owners_of(row) or any(spelling in row for spelling in spellings))


def erase(file: LogFile, matches: OwnerTest, log_store: LogStore) -> int:
    """Rewrite a file on this machine without the matching records, and return the number of changed lines.

    It may be repeated. Ingested lines are not read again: the ledger records the new content before it is put in place.

    log_store: the task's log store; the caller holds its lock. Raises OutsideError if the file changed while it was
    rewritten.
    """
    path = Path(file.path).resolve()  # a link stays one
    lock = Path(file.path).with_name(SERVED_LOCK)
    temporary = path.with_name(f".{path.name}.tmp")
    with hold(lock) if lock.exists() else contextlib.nullcontext():
        before = path.stat()
        ledger = log_store.ledger()
        with opened(file) as handle:
            name = stream_of(handle, ledger["streams"])
        read_to = ledger["streams"].get(name or "", NOTHING_READ)["offset"]
        try:
            read_size, changed = _write_rest(file, temporary, read_to, matches)
            if not changed:
                return 0
            with temporary.open("rb+") as out:
                with contextlib.suppress(OSError):  # only root may: else its writer could no longer append to it
                    os.fchown(out.fileno(), before.st_uid, before.st_gid)
                os.fchmod(out.fileno(), before.st_mode & 0o777)
                os.fsync(out.fileno())
            if read_size:
                with opened(replace(file, path=str(temporary))) as handle:
                    _record(handle, read_size, ledger)
                log_store.append([], ledger)
            after = path.stat()
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise OutsideError(
                    f"{path} changed while rows were removed from it; stop or rotate it and run this again"
                )
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return changed


def _write_rest(file: LogFile, path: Path, read_to: int, matches: OwnerTest) -> tuple[int, int]:
    """Write a file without the matching records to `path`, gzipped if it was. Returns (unpacked size of what is left of its first
    `read_to` bytes, number of changed lines)."""
    path.unlink(missing_ok=True)
    size = read_size = start = changed = 0
    with contextlib.ExitStack() as stack:
        handle, same_bytes = (stack.enter_context(opened(file)) for _ in range(2))
        # readable only by the owner from the start, since it contains other people's texts
        out: Any = stack.enter_context(os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"))
        if isinstance(handle, gzip.GzipFile):
            out = stack.enter_context(gzip.GzipFile(fileobj=out, mode="wb"))
        reader = LineReader(handle)
        for line, is_cut in reader:
            rows = rows_in(line)
            rest = [row for row in (without(row, matches) for row in rows) if row is not None]
            is_same = rest == rows
            for piece in _pieces(same_bytes, reader.offset - start):
                size += out.write(piece) if is_same else 0
            if not is_same:
                changed += 1
                size += 0 if is_cut else out.write(b"".join(row + b"\n" for row in rest))
            read_size = size if start < read_to else read_size
            start = reader.offset
        shutil.copyfileobj(same_bytes, out)  # a line without an end
    return read_size, changed


def _pieces(handle: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the next `size` bytes."""
    while size and (piece := handle.read(min(size, _PIECE))):
        yield piece
        size -= len(piece)


def _record(handle: IO[bytes], read_size: int, ledger: LogLedger) -> None:
    """Record the first `read_size` bytes of a file in the ledger, as read."""
    reader, first_hash = LineReader(handle), ""
    for line, _ in reader:
        first_hash = first_hash or hash_line(line)
        if reader.offset >= read_size:
            break
    number = sum(stream.startswith(f"{first_hash}-") for stream in ledger["streams"])
    ledger["streams"][f"{first_hash}-{number}"] = reader.entry()
