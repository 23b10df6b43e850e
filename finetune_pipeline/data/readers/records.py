"""What every reader gives: records, and blocks of them. A block is what one process judges at a time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from finetune_pipeline.findings import Finding


@dataclass(frozen=True)
class Record:
    """One row as it stands in a file.

    line: where it starts, lines counted from 1 (Parquet: the number of the row); value: what it says, None when it
    could not be read and `findings` say why; raw: its bytes; at: the byte offset of `raw` in the file, where that means
    something; key: the key of the list it stands in, in a JSON document that is an object of lists; encoded: `value` is
    still to be read, from the JSON in `raw`; flat: the values are a table's cells, so that an empty text means nothing.
    """

    line: int
    value: Any
    raw: bytes
    findings: tuple[Finding, ...] = ()
    at: int | None = None
    key: str | None = None
    encoded: bool = False
    flat: bool = False


@dataclass(frozen=True)
class Block:
    """A piece of a file: whole lines of JSON Lines (`data`), or `records` of any other container.

    file: the name rows are known by; first: the line (Parquet: row) it begins with; start: its byte offset.
    """

    file: str
    kind: Literal["lines", "records"]
    first: int
    data: bytes = b""
    records: tuple[Record, ...] = ()
    start: int = 0

    @property
    def digest(self) -> str:
        """Hex SHA-256 of everything the judgement depends on besides the spec."""
        whole = hashlib.sha256(msgspec.json.encode([self.file, self.kind, self.first, self.start, len(self.data)]))
        whole.update(self.data)
        for r in self.records:
            told = [f.to_dict() for f in r.findings]
            head = msgspec.json.encode([r.line, r.at, r.key, r.encoded, r.flat, len(r.raw), told])
            value = b"" if r.encoded or r.value is None else repr(r.value).encode("utf-8", "backslashreplace")
            whole.update(b"%d:%d:" % (len(head), len(value)) + head + value + r.raw)
        return whole.hexdigest()


class Gather:
    """Puts records into blocks whose borders stand at multiples of `size` bytes of the file.

    So a file that only grows keeps all its earlier blocks but the last as they were.
    """

    def __init__(self, file: str, size: int) -> None:
        self._file, self._size = file, size
        self._records: list[Record] = []
        self._stripe = 0

    def add(self, record: Record, end: int) -> Block | None:
        """Take a record that ends at byte `end`; the block that is full with it, if one is."""
        self._records.append(record)
        stripe = end // self._size
        if stripe == self._stripe:
            return None
        self._stripe = stripe
        return self.rest()

    def rest(self) -> Block | None:
        """The records not yet given out, as a block."""
        records, self._records = tuple(self._records), []
        if not records:
            return None
        return Block(self._file, "records", records[0].line, b"", records, records[0].at or 0)


def problem(rule: str, place: str, message: str, fix: str) -> Finding:
    """An error a reader has found."""
    return Finding(f"data.{rule}", "error", place, message, fix)
