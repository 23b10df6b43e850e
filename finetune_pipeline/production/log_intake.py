"""Reads growing, rotating log files into the log store, each complete line exactly once.

A file is recognised by its first line, so it may be renamed, copied and truncated, or gzipped. The ledger stores the
byte offset up to which it was read; the hash of the bytes before it distinguishes files with equal beginnings.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from gzip import GzipFile
from pathlib import Path
from typing import IO, Any

import msgspec

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.production_rows import moment
from finetune_pipeline.production.key_binding import bound_key
from finetune_pipeline.production.log_files import (
    BROKEN_OFF,
    NOTHING_READ,
    OWN_FOLDER,
    LineReader,
    LogFile,
    OtherPacker,
    Stream,
    bytes_before,
    count_line_ends,
    first_line,
    hash_tail,
    log_files,
    opened,
    rows_in,
)
from finetune_pipeline.production.log_rows import damaged_file, fingerprint, parse_line, users_of
from finetune_pipeline.production.log_store import RECEIVED, ForgottenList, log_store
from finetune_pipeline.spec.model import Task

LOCK = "logs"
_BATCH_BYTES = 32 << 20
_SETTLED = 2.0
"""Seconds a file must be unchanged before it counts as read to its end: file system timestamps are coarse."""
_BROKEN_FOR = 3600.0
"""Seconds after which an unchanged gzip file that breaks off counts as damaged, not as still being written."""
_DAY = 86_400.0


class _Batch:
    """Rows that are not stored yet, and the ledger that accounts for them. Make and use it under the task's lock.

    since: the start of a day in UTC; older rows are not kept (logs.keep_days), so they are searched for only once a day.
    """

    def __init__(self, task: Task, store: ArtifactStore, now: float) -> None:
        self.spec, self.key, self.store = task.spec, bound_key(task, store), log_store(task, store)
        self.ledger, self.forgotten = self.store.ledger(), ForgottenList(self.store.folder, self.key)
        self.rows: list[dict[str, object]] = []
        self.now = now
        days = task.spec.logs.keep_days
        # without a limit, the day before 1970: accepted times are later in any time zone
        self.since = (now // _DAY - days) * _DAY if days else -_DAY
        last, jump = self.ledger.get("kept_since", self.since), self.ledger.get("jumped_to")
        is_jump = days and self.since - last > days * _DAY and (jump is None or jump >= self.since)
        self.jumped_to = self.since if is_jump else None
        if is_jump:  # all rows would go, perhaps because the clock is wrong: not before another day confirms it
            self.since = last

    def kept(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """Return a row as it is kept; None if it is too old or to be forgotten. A row without a time has that of its intake."""
        if "timestamp" not in row:
            row = {RECEIVED: self.now, **row}
        logged = moment(row["timestamp"]) if "timestamp" in row else row[RECEIVED]
        return row if logged >= self.since and not self.forgotten.holds(row) else None

    def commit(self) -> None:
        if any(map(users_of, self.rows)) or any(self.ledger["others"].values()):
            self.ledger["key"] = fingerprint(self.key)
        self.store.append(self.rows, self.ledger)
        self.rows = []


def ingest_new_lines(task: Task, store: ArtifactStore, now: float | None = None) -> None:
    """Read every complete line that was not read yet, and once a day remove rows older than logs.keep_days.

    It may be killed, repeated, and called from several processes. now: seconds since 1970.
    """
    now = time.time() if now is None else now
    with store.lock(task.name, LOCK):
        batch, files = _Batch(task, store, now), log_files(task)
        batch.store.sweep()
        previous = batch.ledger["seen"]
        batch.ledger["seen"] = {file.key: previous[file.key] for file in files if file.key in previous}
        changed = batch.ledger["seen"] != previous
        for file in files:
            known_mark, _ = previous.get(file.key, ("", ""))
            if known_mark != file.mark:
                changed |= _ingest_file(file, batch, now)
        if changed or batch.rows:
            batch.commit()
        _expire(task, batch, files)


def ingest_records(
    task: Task, store: ArtifactStore, source: str, records: Iterable[tuple[str, float, dict[str, object]]], since: float
) -> int:
    """Ingest rows that do not come from files, as safely as :func:`ingest_new_lines`. Returns the number of new ones.

    Args:
        source: Where they come from, such as MLflow traces.
        records: (name, time in seconds since 1970, the object of a log line). A name is ingested once, and again when its
            content has changed.
        since: The records are complete from this time on; older names are forgotten.
    """
    with store.lock(task.name, LOCK):
        batch = _Batch(task, store, time.time())
        known = batch.ledger["others"].get(source, {})
        kept = {name: (moment, digest) for name, (moment, digest) in known.items() if moment >= since}
        batch.ledger["others"][source] = kept
        for number, (name, moment, record) in enumerate(records, 1):
            try:
                line = msgspec.json.encode(record, order="sorted")
            except UnicodeEncodeError:  # an unpaired surrogate: quarantined
                line = json.dumps(record, sort_keys=True).encode()
            digest = hashlib.blake2b(line, key=batch.key, digest_size=8).hexdigest()
            _, known_digest = known.get(name, (0.0, ""))
            if known_digest == digest:
                continue
            row = batch.kept(parse_line(line, False, {"file": source, "line": number}, task.spec, batch.key))
            if row is None:
                continue  # its name is not recorded either
            kept[name] = (moment, digest)
            batch.rows.append(row)
        count = len(batch.rows)
        batch.commit()
    return count


def _ingest_file(file: LogFile, batch: _Batch, now: float) -> bool:
    """Continue reading one file. Returns whether the ledger changed."""
    name = ""
    try:
        with opened(file) as handle:
            name = stream_of(handle, batch.ledger["streams"]) or ""
            if not name:
                return False
            is_complete, lines = _read_new_lines(file, handle, name, batch)
    except FileNotFoundError:
        return False  # rotated meanwhile: the next call reads it under its new name
    except BROKEN_OFF as error:
        grace = _SETTLED if isinstance(error, OtherPacker) else _BROKEN_FOR
        if file.modified is None or abs(now - file.modified) < grace:
            return True
        lines_read = batch.ledger["streams"].get(name, NOTHING_READ)["lines"]
        batch.rows.append({RECEIVED: now, **damaged_file(file.shown, lines_read, error)})
        is_complete, lines = True, 1
    if is_complete and (file.modified is None or abs(now - file.modified) > _SETTLED):
        batch.ledger["seen"][file.key] = (file.mark, name)
        return True
    return lines > 0


def stream_of(handle: IO[bytes], streams: Mapping[str, Stream]) -> str | None:
    """Return the name under which a file is known, or a new one; None before its first line is complete.

    Of the known files with the same first line, the one with the longest equal beginning is chosen; of several, the shortest,
    since a file with erased lines begins like its original.
    """
    first = first_line(handle)
    if first is None:
        return None
    number, matches = 0, []
    while (name := f"{first}-{number}") in streams:
        if (end := _equal_up_to(handle, streams[name])) is not None:
            matches.append((end, -streams[name]["offset"], name))
        number += 1
    if not matches:
        return name
    return max(matches)[-1]


def _equal_up_to(handle: IO[bytes], stream: Stream) -> int | None:
    """Return the last recorded offset up to which a file has the bytes of a known one; None if they differ.

    It is 0 for a file that is too short to tell: an unfinished copy. Tails are recorded at lines 1, 2, 4, …: a shorter file with
    twice the equal lines would have the next one, too, if it were a copy.
    """
    is_shorter = False
    for offset, tail in reversed(stream["tails"]):
        try:
            if hash_tail(bytes_before(handle, offset)) != tail:
                return None
        except LookupError:
            is_shorter = True
            continue
        if is_shorter:
            before, after = count_line_ends(handle, offset)
            if after >= before:
                return None
        return int(offset)
    return 0


def _read_new_lines(file: LogFile, handle: IO[bytes], name: str, batch: _Batch) -> tuple[bool, int]:
    """Continue reading a file where it was left. Returns whether it was read to its end and ends with a line end, and the
    number of lines read. Raises one of BROKEN_OFF after the complete lines of a damaged gzip file."""
    stream = batch.ledger["streams"].get(name, NOTHING_READ)
    try:
        reader = LineReader(handle, stream)
    except LookupError:
        return True, 0  # an unfinished copy of a file that was read further
    broken_off: Exception | None = None
    while True:
        start, rows = reader.offset, []
        try:
            for line, is_cut in reader:
                for text in rows_in(line):
                    source = {"file": file.shown, "line": reader.lines}
                    if row := batch.kept(parse_line(text, is_cut, source, batch.spec, batch.key)):
                        rows.append(row)
                if reader.offset >= start + _BATCH_BYTES:
                    break
        except BROKEN_OFF as error:  # the complete lines before it are used
            broken_off = error
        if reader.offset > start:
            if not isinstance(handle, GzipFile):
                if first_line(handle) != name.rpartition("-")[0]:
                    return False, 0  # truncated while it was read: the bytes may belong to another file
                handle.seek(reader.offset)
            batch.ledger["streams"][name] = reader.entry()
            batch.rows += rows
        if broken_off:
            raise broken_off
        if reader.offset < start + _BATCH_BYTES:
            break
        batch.commit()
    return not reader.is_incomplete, reader.lines - stream["lines"]


def _expire(task: Task, batch: _Batch, files: list[LogFile]) -> None:
    """Remove rows older than logs.keep_days, and files of the task's own folder that contain nothing newer."""
    ledger, own_folder = batch.ledger, (task.folder / OWN_FOLDER).resolve()
    if (ledger.get("kept_since", -_DAY), ledger.get("jumped_to")) != (batch.since, batch.jumped_to):
        batch.store.rewrite(batch.kept)
        ledger = {**batch.store.ledger(), "kept_since": batch.since, "jumped_to": batch.jumped_to}
        batch.store.append([], ledger)
    for file in files:
        is_own = file.local is not None and file.local.resolve().is_relative_to(own_folder)
        if is_own and file.modified is not None and file.modified < batch.since and file.key in ledger["seen"]:
            Path(file.path).unlink(missing_ok=True)
