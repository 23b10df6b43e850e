"""The log store: rows in segments, ingested exactly once, with a ledger written after they are durable, and a forget list.

Layout of a store's folder::

    ledger.json               :class:`LogLedger`
    segments/<n>.jsonl        rows of :mod:`finetune_pipeline.production.log_rows`, never changed once named in the ledger
    forgotten.json            :class:`ForgottenList`

A segment that the ledger does not name was left by a process that died before its offsets were written. It is ignored, and
its rows are read again. So no row is lost or duplicated, whenever a process dies.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NotRequired, TypedDict

import msgspec

from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.data.people import LogSource
from finetune_pipeline.engine.files import DamagedFile, read_json, replace_text, sync_folder, write_json
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.production.log_files import Stream
from finetune_pipeline.production.log_rows import fingerprint, hash_id, ids_of, users_of
from finetune_pipeline.spec.model import Task

RECEIVED = "received"
"""When a line without a readable time was read (seconds since 1970)."""
_DIGEST_VALUES = 1 << 256
_JOINED_ROWS = 1_000


class Segment(TypedDict):
    """A file of rows. sum: of the rows' digests, independent of their order."""

    name: Annotated[str, msgspec.Meta(pattern="^[0-9]+$")]
    lines: int
    sum: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]+$")]


class LogLedger(TypedDict):
    """What was ingested.

    Attributes:
        streams: The part of each file that was read, by the file's name in the ledger.
        seen: {path: (mark, name)} of files read to their end.
        others: {source: {name: (time, digest)}} of rows that do not come from files.
        key: Fingerprint of the key that users, ids and digests are hashed with; None: nothing is hashed yet; absent: written by
            an earlier version (see production.key_binding).
        kept_since: Rows before this time were removed (seconds since 1970).
        jumped_to: The same, so much later that another day must confirm the clock first.
    """

    streams: dict[str, Stream]
    seen: dict[str, tuple[str, str]]
    others: dict[str, dict[str, tuple[float, str]]]
    segments: list[Segment]
    key: NotRequired[str | None]
    kept_since: NotRequired[float]
    jumped_to: NotRequired[float | None]


def log_store(task: Task, store: ArtifactStore) -> "LogStore":
    return LogStore(store.state_folder(task.name) / "logs")


class LogStore:
    """The rows of one task below a folder. Writers, and readers of rows, must hold the task's lock ``logs``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ledger = folder / "ledger.json"
        self._segments = folder / "segments"

    def ledger(self) -> LogLedger:
        if not self._ledger.exists():
            return {"streams": {}, "seen": {}, "others": {}, "segments": [], "key": None}
        ledger: LogLedger = read_json(self._ledger, LogLedger)
        return ledger

    def append(self, rows: list[dict[str, object]], ledger: LogLedger) -> None:
        """Store rows, then the ledger that accounts for them. Without rows, write only the ledger. Rows are written together
        with those of a small last segment, so that frequent appends do not leave a file each."""
        if rows:
            number, segments = _highest_number(ledger) + 1, ledger["segments"]
            if segments and segments[-1]["lines"] + len(rows) <= _JOINED_ROWS:
                rows = [*self._read(segments.pop()), *rows]
            segments.append(self._write(number, rows))
        write_json(self._ledger, ledger)

    def rewrite(self, change: Callable[[dict[str, object]], dict[str, object] | None]) -> int:
        """Replace each row by the result of `change` (None removes it). Returns the number of removed rows.

        The old segments are deleted when this returns; if it is killed, a second call (or :meth:`sweep`) completes it.
        """
        ledger, removed = self.ledger(), 0
        number = _highest_number(ledger)
        segments: list[Segment] = []
        for segment in ledger["segments"]:
            before = self._read(segment)
            after = [changed for row in before if (changed := change(row)) is not None]
            if after == before:
                segments.append(segment)
                continue
            removed += len(before) - len(after)
            if after:
                number += 1
                segments.append(self._write(number, after))
        if segments != ledger["segments"]:
            write_json(self._ledger, {**ledger, "segments": segments})
        self.sweep()
        return removed

    def drop_names(self, drop: Callable[[str], bool]) -> None:
        """Remove the names for which `drop` is True of rows that do not come from files."""
        ledger = self.ledger()
        for source, names in ledger["others"].items():
            ledger["others"][source] = {name: entry for name, entry in names.items() if not drop(name)}
        write_json(self._ledger, ledger)

    def sweep(self) -> None:
        """Remove segments that the ledger does not name."""
        segment_files = {f"{segment['name']}.jsonl" for segment in self.ledger()["segments"]}
        if self._segments.is_dir():
            for path in self._segments.iterdir():
                if path.name not in segment_files:
                    path.unlink(missing_ok=True)

    def digest(self) -> str:
        """Return a digest of the rows, independent of their order and batches."""
        segments = self.ledger()["segments"]
        return _digest([segment["sum"] for segment in segments], sum(segment["lines"] for segment in segments))

    def rows(self, digest: str | None = None) -> list[dict[str, object]]:
        """Return the rows as of this digest (None: all), in order of arrival. Raises LookupError if some were removed since."""
        rows = [row for segment in self.ledger()["segments"] for row in self._read(segment)]
        if digest is not None:
            rows = rows[: int(digest.rpartition("-")[2])]
            if _digest([_sum(rows)], len(rows)) != digest:
                raise LookupError("log rows were removed (forgotten, or past logs.keep_days) since this run began")
        return rows

    def _read(self, segment: Segment) -> list[dict[str, object]]:
        path = self._path(segment["name"])
        rows = read_rows(path) if path.exists() else []
        if len(rows) != segment["lines"] or _sum(rows) != segment["sum"]:
            message = f"{path} is damaged: {len(rows)} of the {segment['lines']} ingested rows are left"
            if len(rows) == segment["lines"]:
                message = f"{path} is damaged: its rows are not those ingested"
            raise DamagedFile(f"{message}\nfix: put back a copy of it")
        return rows

    def _path(self, name: str) -> Path:
        return self._segments / f"{name}.jsonl"

    def _write(self, number: int, rows: Sequence[Mapping[str, object]]) -> Segment:
        name = f"{number:08d}"
        self._segments.mkdir(parents=True, exist_ok=True)
        replace_text(self._path(name), "".join(msgspec.json.encode(row).decode() + "\n" for row in rows))
        sync_folder(self._segments)
        return {"name": name, "lines": len(rows), "sum": _sum(rows)}


def _highest_number(ledger: LogLedger) -> int:
    return max((int(segment["name"]) for segment in ledger["segments"]), default=0)


def _sum(rows: Iterable[Mapping[str, object]]) -> str:
    """Return the sum of the rows' digests, which depends on neither their order nor how they came here."""
    total = 0
    for row in rows:
        content = {key: value for key, value in row.items() if key not in ("source", RECEIVED)}
        total += int.from_bytes(hashlib.sha256(msgspec.json.encode(content, order="sorted")).digest(), "big")
    return f"{total % _DIGEST_VALUES:064x}"


def _digest(sums: Iterable[str], lines: int) -> str:
    """Return the digest of a store with this many rows, from the sums of its parts. It ends with the number of rows."""
    total = sum(int(part, 16) for part in sums) % _DIGEST_VALUES
    return f"{hashlib.sha256(f'{total:064x}'.encode()).hexdigest()[:32] if lines else 32 * '0'}-{lines}"


FILE = "forgotten.json"


class _Forgotten(TypedDict):
    users: list[str]
    ids: list[str]
    tainted: NotRequired[list[str]]
    key: NotRequired[str]


class ForgottenList:
    """The forget list of a task, in its log store's folder. Writers must hold the task's lock ``logs``.

    users, ids: keyed hashes. tainted: versions of splits with such a row among the training or validation rows, recorded
    before the splits are removed. key: fingerprint of the key that the stored list was made with, if it says so.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        self._path, self._key = folder / FILE, key
        stored = read_json(self._path, _Forgotten) if self._path.exists() else {"users": [], "ids": []}
        self.users: set[str] = set(stored["users"])
        self.ids: set[str] = set(stored["ids"])
        self.tainted: set[str] = set(stored.get("tainted", []))
        self.key: str | None = stored.get("key")

    def holds(self, row: Mapping[str, object]) -> bool:
        """Whether a row of the log store has a forgotten user or id."""
        if not self.users and not self.ids:
            return False
        return not self.users.isdisjoint(users_of(row)) or any(map(self.holds_id, ids_of(row)))

    def holds_id(self, name: str) -> bool:
        return self._hash(name) in self.ids

    def holds_source(self, source: LogSource) -> bool:
        """Whether the log row that a person answered has a forgotten user or id."""
        return source.user in self.users or self.holds_id(source.id)

    def _hash(self, name: str) -> str:
        return hash_id(name, self._key)

    def add(self, users: Iterable[str] = (), ids: Iterable[str] = (), tainted: Iterable[str] = ()) -> None:
        """Add hashes of users, ids of rows, and versions of splits; durable when it returns."""
        self.users |= set(users)
        self.ids |= {self._hash(name) for name in ids}
        self.tainted |= set(tainted)
        lists = {"users": self.users, "ids": self.ids, "tainted": self.tainted}
        write_json(
            self._path, {"key": fingerprint(self._key)} | {name: sorted(values) for name, values in lists.items()}
        )
