"""A cache of model answers and vectors of texts, keyed by everything they depend on. No torch.

A hit equals a fresh answer, so entries never go stale. Keys are digests, so the cache holds answers and no prompts. Answers to
the sealed test of a task have a file of their own, which only steps that may read them are given.

A file is an SQLite database: a killed writer leaves whole batches or nothing, and processes take turns. A damaged file is moved
aside. A full disk or a read-only file loses no answer: the cache then goes unused.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from finetune_pipeline.engine.files import digest_json
from finetune_pipeline.jobs import KeptAnswers
from finetune_pipeline.models.inference.generated import Answer

FOLDER = ".answers"
"""The folder of the caches below the artifact store's root."""
UNUSED_DAYS = 90
"""Entries unused for this many days are removed."""
T = TypeVar("T")
_WAIT_S = 60.0
_KEPT_WHEN_FULL = 0.8
_DELETE_OLDEST = """
DELETE FROM answers WHERE rowid IN (
    SELECT rowid FROM (
        SELECT rowid, sum(length(answer) + 64) OVER (ORDER BY used DESC, rowid DESC) AS held FROM answers
    ) WHERE held > ?
)"""


def cache_file(folder: Path, test_of: str | None = None) -> Path:
    """The file for answers to the sealed test of a task, or (None) for all other answers."""
    return folder / (f"test_{test_of}.sqlite" if test_of else "answers.sqlite")


class AnswerCache:
    """limit_mib: maximum size of the file (the least recently used entries go first), 0 disables it.

    hits, misses: of this object. problem: why the file is unusable, if it is.
    """

    def __init__(self, path: Path, limit_mib: int) -> None:
        self._path, self._limit = path, limit_mib << 20
        self.hits = self.misses = 0
        self.problem = ""

    @classmethod
    def of(cls, settings: KeptAnswers | None) -> AnswerCache | None:
        """The cache that a job's settings describe; None without settings."""
        return cls(settings.file, settings.limit_mib) if settings else None

    def key(self, content: Any) -> bytes:
        """The key of an answer, a digest of `content` (plain JSON)."""
        return bytes.fromhex(digest_json(content))

    def find(self, keys: Sequence[bytes]) -> dict[int, Answer]:
        """The cached answers, by index in `keys`."""
        stored = self.find_bytes(keys)
        cached = {i: answer for i, content in stored.items() if (answer := _read(content))}
        self.hits += len(cached)
        self.misses += len(keys) - len(cached)
        return cached

    def find_bytes(self, keys: Sequence[bytes]) -> dict[int, bytes]:
        """The cached contents, by index in `keys`."""

        def look_up(file: sqlite3.Connection) -> dict[int, bytes]:
            query = "SELECT key, answer FROM answers WHERE key = ?"
            rows: dict[bytes, bytes] = dict(row for key in set(keys) for row in file.execute(query, [key]))
            now = int(time.time())
            file.executemany("UPDATE answers SET used = ? WHERE key = ?", [(now, key) for key in rows])
            return {i: rows[key] for i, key in enumerate(keys) if key in rows}

        return self._run(look_up) or {}

    def keep(self, answers: Mapping[bytes, Answer]) -> None:
        """Store answers in one transaction. Failed ones are not stored, so they are retried."""
        finished = {key: answer for key, answer in answers.items() if answer.status != "error"}
        self.keep_bytes({key: json.dumps(asdict(answer)).encode() for key, answer in finished.items()})

    def keep_bytes(self, contents: Mapping[bytes, bytes]) -> None:
        """Store contents in one transaction."""
        now = int(time.time())
        rows = [(key, content, now) for key, content in contents.items()]
        if rows:
            self._run(lambda file: file.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows))

    def tidy(self) -> None:
        """Remove entries unused for long, and the oldest above the size limit."""

        def remove(file: sqlite3.Connection) -> bool:
            file.execute("DELETE FROM answers WHERE used < ?", [int(time.time()) - UNUSED_DAYS * 86400])
            size = file.execute("SELECT coalesce(sum(length(answer) + 64), 0) FROM answers").fetchone()[0]
            if size <= self._limit:
                return False
            file.execute(_DELETE_OLDEST, [self._limit * _KEPT_WHEN_FULL])
            return True

        if self._run(remove):
            self._run(lambda file: file.execute("VACUUM"), transaction=False)

    def _run(self, work: Callable[[sqlite3.Connection], T], transaction: bool = True) -> T | None:
        """Run `work` in one transaction. If the file fails, set `problem` and stop using it."""
        if not self._limit:
            return None
        try:
            with contextlib.closing(self._connect()) as file:
                if not transaction:
                    return work(file)
                with file:
                    file.execute("BEGIN IMMEDIATE")
                    return work(file)
        except (sqlite3.Error, OSError) as error:
            self.problem, self._limit = f"{type(error).__name__}: {error}", 0
            return None

    def _connect(self, once_more: bool = True) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        file = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None)
        try:
            file.execute(
                "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer BLOB NOT NULL, used INTEGER NOT NULL)"
            )
        except sqlite3.DatabaseError as error:
            file.close()
            if isinstance(error, sqlite3.OperationalError) or not once_more:
                raise
            os.replace(self._path, self._path.with_name(f"{self._path.name}.damaged"))
            return self._connect(once_more=False)
        return file


def _read(stored: bytes) -> Answer | None:
    try:
        fields = json.loads(stored)
        restricted = fields["restricted"] and Answer(**fields["restricted"])
        return Answer(**{**fields, "restricted": restricted})
    except (ValueError, TypeError, KeyError):
        return None  # from another version: a miss, which overwrites it
