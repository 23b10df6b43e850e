"""Reads growing, rotating log files into the log store, each complete line exactly once.

A file is recognised by its first line, so that it may be renamed, copied and truncated, or gzipped. The ledger stores the
byte offset up to which it was read; the hash of the bytes before it distinguishes files with equal beginnings.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from gzip import GzipFile
from pathlib import Path
from typing import IO, Any

import msgspec

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.production.log_files import (
    BROKEN_OFF,
    NOTHING_READ,
    OWN_FOLDER,
    LineReader,
    LogFile,
    OtherPacker,
    Stream,
    bytes_before,
    first_line,
    hash_tail,
    log_files,
    opened,
    rows_in,
)
from finetune_pipeline.production.log_rows import damaged_file, take_line, user_key
from finetune_pipeline.production.log_store import ForgottenList, LogStore
from finetune_pipeline.spec.model import Task

LOCK = "logs"
_BATCH_BYTES = 32 << 20
_SETTLED = 2.0
"""Seconds a file must be unchanged before its mark is trusted: file system timestamps are coarse."""
_BROKEN_FOR = 3600.0
"""Seconds after which an unchanged gzip file that breaks off is damaged, and no longer being written."""


class _Batch:
    """Rows that are not durable yet, and the ledger that accounts for them. Make and use it under the task's lock."""

    def __init__(self, task: Task, store: ArtifactStore) -> None:
        self.spec, self.key, self.store = task.spec, user_key(store), log_store(task, store)
        self.ledger, self.forgotten = self.store.ledger(), ForgottenList(self.store.folder, self.key)
        self.rows: list[dict[str, Any]] = []

    def commit(self) -> None:
        self.store.append(self.rows, self.ledger)
        self.rows = []


def log_store(task: Task, store: ArtifactStore) -> LogStore:
    return LogStore(store.state_folder(task.name) / "logs")


def take_in(task: Task, store: ArtifactStore, now: float | None = None) -> None:
    """Read every complete line that was not read yet. It may be killed, repeated, and called from several processes. `now`:
    seconds since 1970, for logs.keep_days."""
    now = time.time() if now is None else now
    with store.lock(task.name, LOCK):
        batch, files = _Batch(task, store), log_files(task)
        batch.store.sweep()
        seen = batch.ledger["seen"]
        batch.ledger["seen"] = {f.key: seen[f.key] for f in files if f.key in seen}
        changed = batch.ledger["seen"] != seen
        for file in files:
            if seen.get(file.key, ("", ""))[0] != file.mark:
                changed |= _take_file(file, batch, now)
        if changed or batch.rows:
            batch.commit()
        _expire(task, batch.store, files, now)


def take_records(
    task: Task, store: ArtifactStore, source: str, records: Iterable[tuple[str, float, dict[str, Any]]], since: float
) -> int:
    """Ingest rows that do not come from files: (name, time in seconds since 1970, the object of a log line). Returns their
    number.

    A name is ingested once, and again when its content has changed. since: the records are complete from this time on; older
    names are forgotten. As safe as :func:`take_in`.
    """
    with store.lock(task.name, LOCK):
        batch = _Batch(task, store)
        others, known = batch.ledger["others"], batch.ledger["others"].get(source, {})
        others[source] = {name: entry for name, entry in known.items() if entry[0] >= since}
        for number, (name, moment, record) in enumerate(records, 1):
            try:
                line = msgspec.json.encode(record, order="sorted")
            except UnicodeEncodeError:  # an unpaired surrogate: quarantined
                line = json.dumps(record, sort_keys=True).encode()
            digest = hashlib.blake2b(line, key=batch.key, digest_size=8).hexdigest()
            if known.get(name, (0.0, ""))[1] == digest:
                continue
            row = take_line(line, False, {"file": source, "line": number}, task.spec, batch.key)
            if batch.forgotten.holds(row):
                continue  # its name is not recorded either
            others[source][name] = (moment, digest)
            batch.rows.append(row)
        taken = len(batch.rows)
        batch.commit()
    return taken


def _take_file(file: LogFile, batch: _Batch, now: float) -> bool:
    """Continue reading one file. Returns whether the ledger changed."""
    name = ""
    try:
        with opened(file) as handle:
            name = stream_of(handle, batch.ledger["streams"]) or ""
            if not name:
                return False
            whole, lines = _read_on(file, handle, name, batch)
    except FileNotFoundError:
        return False  # rotated away meanwhile: read under its new name next time
    except BROKEN_OFF as error:
        patience = _SETTLED if isinstance(error, OtherPacker) else _BROKEN_FOR
        if file.modified is None or file.modified > now - patience:
            return True
        read = batch.ledger["streams"].get(name, NOTHING_READ)["lines"]
        batch.rows.append(damaged_file(file.shown, read, error))
        whole, lines = True, 1
    if whole and (file.modified is None or file.modified < now - _SETTLED):
        batch.ledger["seen"][file.key] = (file.mark, name)
        return True
    return lines > 0


def stream_of(handle: IO[bytes], streams: Mapping[str, Stream]) -> str | None:
    """Return the name under which a file is known, or a new one; None before its first line is complete. Among files with
    the same first line, the one with the longest equal beginning is chosen; among several, the shortest, since a file with
    erased lines begins like its original."""
    first = first_line(handle)
    if first is None:
        return None
    number, alike = 0, []
    while (name := f"{first}-{number}") in streams:
        if (until := _agrees(handle, streams[name])) is not None:
            alike.append((until, -streams[name]["offset"], name))
        number += 1
    return max(alike)[-1] if alike else name


def _agrees(handle: IO[bytes], known: Stream) -> int | None:
    """Return the last offset up to which a file has the bytes that were read under a name; None if they differ. A file that
    is too short to tell is an unfinished copy."""
    for offset, tail in sorted(known["tails"], reverse=True):
        try:
            return int(offset) if hash_tail(bytes_before(handle, offset)) == tail else None
        except LookupError:
            continue
    return 0


def _read_on(file: LogFile, handle: IO[bytes], name: str, batch: _Batch) -> tuple[bool, int]:
    """Return (whether the file was read to its end and ends with a line end, number of lines read). Raises one of
    BROKEN_OFF after the complete lines of a damaged gzip file."""
    known = batch.ledger["streams"].get(name, NOTHING_READ)
    try:
        reader = LineReader(handle, known)
    except LookupError:
        return True, 0  # an unfinished copy of a file that was read further
    broken_off: Exception | None = None
    while True:
        start, rows, removed = reader.offset, [], 0
        try:
            for line, cut in reader:
                for text in rows_in(line):
                    source = {"file": file.shown, "line": reader.lines}
                    row = take_line(text, cut, source, batch.spec, batch.key)
                    if batch.forgotten.holds(row):
                        removed += 1
                    else:
                        rows.append(row)
                if reader.offset >= start + _BATCH_BYTES:
                    break
        except BROKEN_OFF as error:  # the complete lines before it are used
            broken_off = error
        if reader.offset > start:
            if not isinstance(handle, GzipFile):
                if first_line(handle) != name.rpartition("-")[0]:
                    return False, 0  # truncated while it was read: the bytes may belong to another file
                reader.stay()
            batch.ledger["streams"][name] = reader.entry()
            batch.rows += rows
            batch.ledger["removed"] += removed
        if broken_off:
            raise broken_off
        if reader.offset < start + _BATCH_BYTES:
            break
        batch.commit()
    return not reader.half, reader.lines - known["lines"]


def _expire(task: Task, kept: LogStore, files: list[LogFile], now: float) -> None:
    """Remove rows older than logs.keep_days, and files of the task's own folder that contain nothing newer."""
    if task.spec.logs.keep_days is None:
        return
    limit = now - 86_400 * task.spec.logs.keep_days

    def young(row: dict[str, Any]) -> dict[str, Any] | None:
        timestamp = row.get("timestamp")
        return row if timestamp is None or datetime.fromisoformat(timestamp).timestamp() >= limit else None

    kept.rewrite(young)
    read = kept.ledger()["seen"]
    for file in files:
        own = file.local is not None and file.shown.startswith(f"{OWN_FOLDER}/")
        if own and file.modified is not None and file.modified < limit and file.key in read:
            Path(file.path).unlink(missing_ok=True)
