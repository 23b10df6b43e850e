"""Whose rows are never taken in, and which training data they were in: the lasting part of `finetune forget`.

Users and row ids are kept as keyed hashes (see log_rows.hash_user), so that the list itself names nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from finetune_pipeline.engine.store import read_json, write_json
from finetune_pipeline.production.log_rows import hash_user

FILE = "forgotten.json"


class ForgottenList:
    """The list of a task, below its log store's folder. Whoever writes holds the task's lock ``logs``.

    users, ids: keyed hashes. trained: {version of splits: hashes of the log ids in its training and validation rows}, noted
    before such rows are removed. tainted: versions of splits that hold a forgotten row.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        self._path, self._key = folder / FILE, key
        stored = read_json(self._path) if self._path.exists() else {}
        self.users: set[str] = set(stored.get("users", []))
        self.ids: set[str] = set(stored.get("ids", []))
        self.trained: dict[str, list[str]] = dict(stored.get("trained", {}))

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of the log store is a forgotten person's, or has a forgotten id."""
        if not self.users and not self.ids:
            return False
        return row.get("user") in self.users or ("id" in row and self.hash_id(row["id"]) in self.ids)

    def hash_id(self, name: str) -> str:
        """The hash of a row's id."""
        return hash_user(f"id:{name}", self._key)

    def add(self, users: Iterable[str], ids: Iterable[str], trained: Mapping[str, Iterable[str]]) -> None:
        """Add hashes of users, ids of rows, and what versions of splits were trained on; durable when it returns."""
        self.users |= set(users)
        self.ids |= {self.hash_id(i) for i in ids}
        self.trained |= {version: sorted(self.hash_id(i) for i in names) for version, names in trained.items()}
        kept = {"users": sorted(self.users), "ids": sorted(self.ids), "trained": self.trained}
        write_json(self._path, kept)

    @property
    def tainted(self) -> set[str]:
        """Versions of splits with a forgotten row among their training or validation rows."""
        return {version for version, names in self.trained.items() if self.ids & set(names)}
