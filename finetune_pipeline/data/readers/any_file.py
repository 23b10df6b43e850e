"""Reads any raw file as records."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.data.json_lines import MAX_LINE_BYTES, is_blank
from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.data.readers.containers import Container, container_of
from finetune_pipeline.data.readers.json_document import read_json_document
from finetune_pipeline.data.readers.records import (
    BOM,
    SHOWN,
    RawStream,
    Record,
    broken_stream,
    byte_order_mark,
    too_long,
    unreadable,
)
from finetune_pipeline.data.readers.tables import read_table
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec import TaskSpec

_HEAD = 1 << 20
_BATCH = 1_000


def look_at(path: Path, file: str, spec: TaskSpec) -> tuple[Container, bool]:
    """(container, whether it is gzipped) of a file, from its first MiB."""
    with RawStream(path) as stream:
        head = stream.buffered().read(_HEAD)
        return container_of(head, len(head) < _HEAD, file, spec), stream.compressed


def read_records(path: Path, file: str, spec: TaskSpec) -> Iterator[Record]:
    """The rows of a raw file; blank lines are left out. What cannot be read is a record without a value and with findings.

    Takes constant memory, but for JSON documents.

    Args:
        path: The file.
        file: Its name, as its rows are to be known by.
        spec: The task.
    """
    container, compressed = look_at(path, file, spec)
    with RawStream(path) as stream:
        if container.kind == "parquet" and not compressed:
            yield from _read_parquet(path, file)
        elif container.kind == "json_lines":
            yield from _read_json_lines(stream, file)
        elif container.kind == "json":
            yield from read_json_document(stream, file, spec)
        elif container.dialect is not None and not container.dialect.problem:
            yield from read_table(stream, file, spec, container.dialect)
        else:
            yield _refused(stream, file, container)


def _refused(stream: RawStream, file: str, container: Container) -> Record:
    """The record that says why a file is not read."""
    head = stream.buffered().read(SHOWN)
    if stream.problem:
        return broken_stream(stream, file, 1, head, 0)
    rule, why = "csv_dialect" if container.kind == "csv" else "unknown_container", container.why
    if container.kind == "parquet":
        why = "the file is Parquet inside gzip, which cannot be read piece by piece"
    fix = container.dialect.fix if container.dialect else ""
    return unreadable(rule, file, 1, f"the file was not read: {why}", fix or "save it as JSON Lines in UTF-8", head, 0)


def _read_json_lines(stream: RawStream, file: str) -> Iterator[Record]:
    source = stream.buffered()
    number, end = 0, 0
    while line := source.readline(MAX_LINE_BYTES + 1):
        number, at, end = number + 1, end, end + len(line)
        ended = line.endswith(b"\n")
        if len(line) > MAX_LINE_BYTES and not ended:
            while not ended and (rest := source.readline(MAX_LINE_BYTES)):
                ended, end = rest.endswith(b"\n"), end + len(rest)
            yield too_long(file, number, MAX_LINE_BYTES, line, at)
        elif stream.problem and not ended:
            yield broken_stream(stream, file, number, line, at)
            return
        else:
            notes: tuple[Finding, ...] = ()
            if number == 1 and line.startswith(BOM):
                line, at, notes = line[len(BOM) :], len(BOM), (byte_order_mark(file),)
            if not is_blank(line):
                yield Record(number, None, line.rstrip(b"\r\n"), notes, at, encoded=True)
    if stream.problem:
        yield broken_stream(stream, file, number + 1, b"", end)


def _read_parquet(path: Path, file: str) -> Iterator[Record]:
    """The rows of a Parquet file; `line` is the number of the row. Takes the memory of a batch."""
    import pyarrow
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if len(set(names)) < len(names):
                raise ValueError("two columns have the same name")
            for batch in table.iter_batches(batch_size=_BATCH):
                for row in _rows(batch):
                    number += 1
                    yield _record(row, number, file)
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        reason = quoted(" ".join(str(error).split()), 200)
        message = f"the Parquet file cannot be read behind row {number}: {reason}"
        yield unreadable("bad_parquet", file, number + 1, message, "write or copy the file again")


def _rows(batch: Any) -> list[dict[str, Any] | Exception]:
    """The rows of a batch; an exception for each row that cannot be turned into Python's values."""
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError, TypeError) as error:
        if batch.num_rows == 1:
            return [error]
        return [row for i in range(batch.num_rows) for row in _rows(batch.slice(i, 1))]


def _record(row: dict[str, Any] | Exception, number: int, file: str) -> Record:
    if isinstance(row, Exception):
        rule = "invalid_utf8" if isinstance(row, UnicodeDecodeError) else "bad_parquet"
        message = f"the row cannot be read: {quoted(str(row), 160)}"
        return unreadable(rule, file, number, message, "write the file again")
    value = {name: _as_json(item) for name, item in row.items()}
    try:
        raw = msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError):
        raw = repr(value).encode("utf-8", "backslashreplace")
    return Record(number, value, raw, flat=True)


def _as_json(value: Any) -> Any:
    """A value as JSON would have it; dates stay dates, because `data.fields.time` reads them."""
    if isinstance(value, dict):
        return {str(k): _as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(v) for v in value]
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if value is None or isinstance(value, datetime | date | str | int) else str(value)
