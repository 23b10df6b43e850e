"""What a task has spent on its fallback in a calendar month (UTC), within a limit. Kept in a file that processes share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from finetune_pipeline.engine.files import hold, read_json, write_json


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """Dollars spent, and the number of paid requests, in a month such as 2026-12."""

    month: str
    dollars: float = 0.0
    requests: int = 0


class Spending:
    """The ledger of a task's fallback.

    A request's largest cost is written down before it is sent, and replaced by its true cost after it: a process that dies between
    has spent it.

    Args:
        path: The ledger's file.
        limit: Dollars a month.
    """

    def __init__(self, path: Path, limit: float) -> None:
        self.path, self.limit = path, limit

    def month(self) -> Month:
        """Return what this month has cost so far."""
        now = datetime.now(UTC).strftime("%Y-%m")
        kept = msgspec.convert(read_json(self.path, Month), Month) if self.path.exists() else Month(month=now)
        return kept if kept.month == now else Month(month=now)

    def reserve(self, most: float) -> bool:
        """Write down the largest cost of a request. Returns False, and writes nothing, if that would exceed the limit."""
        with self._held():
            month = self.month()
            if month.dollars + most > self.limit:
                return False
            self._write(Month(month=month.month, dollars=month.dollars + most, requests=month.requests + 1))
            return True

    def settle(self, reserved: float, cost: float) -> None:
        """Replace the reserved cost of a request by its true one."""
        with self._held():
            month = self.month()
            self._write(msgspec.structs.replace(month, dollars=max(0.0, month.dollars - reserved) + cost))

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        with hold(self.path.with_suffix(".lock")):
            yield

    def _write(self, month: Month) -> None:
        write_json(self.path, msgspec.to_builtins(month))
