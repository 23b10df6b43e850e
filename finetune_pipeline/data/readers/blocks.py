"""Any raw file in, blocks of records out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.data.json_lines import MAX_LINE_BYTES
from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.data.readers.containers import Container, container_of
from finetune_pipeline.data.readers.json_document import read_json_document
from finetune_pipeline.data.readers.records import (
    SHOWN,
    Block,
    RawStream,
    Record,
    broken_stream,
    in_blocks,
    too_long,
    unreadable,
)
from finetune_pipeline.data.readers.tables import read_table
from finetune_pipeline.spec import TaskSpec


def read_json_lines(stream: RawStream, file: str, size: int) -> Iterator[Block]:
    """Blocks of whole lines, each of about `size` bytes.

    A line longer than MAX_LINE_BYTES, and a gzip file that ends too early (with the piece of a line before the break),
    is a block of its own with one record.
    """
    source = stream.buffered()
    lines: list[bytes] = []
    first, start, number, at = 1, 0, 1, 0  # of the block, and of the next line

    def block() -> Iterator[Block]:
        nonlocal lines, first, start
        if lines:
            yield Block(file, "lines", first, b"".join(lines), start=start)
        lines, first, start = [], number, at

    def alone(record: Record) -> Block:
        return Block(file, "records", record.line, b"", (record,), record.at or 0)

    while line := source.readline(MAX_LINE_BYTES + 1):
        ended = line.endswith(b"\n")
        if len(line) > MAX_LINE_BYTES and not ended:
            yield from block()
            yield alone(too_long(file, number, MAX_LINE_BYTES, line, at))
            at += len(line)
            while (rest := source.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                at += len(rest)
            number, at = number + 1, at + len(rest)
            yield from block()
            continue
        if stream.problem and not ended:
            yield from block()
            yield alone(broken_stream(stream, file, number, line, at))
            return
        lines.append(line)
        number, at = number + 1, at + len(line)
        if at - start >= size:
            yield from block()
    yield from block()
    if stream.problem:
        yield alone(broken_stream(stream, file, number, b"", at))


_BATCH = 1_000


def read_parquet(path: Path, file: str) -> Iterator[Record]:
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


__all__ = ["Block", "Record", "look_at", "read_blocks"]

_HEAD = 1 << 20


def look_at(path: Path, file: str, spec: TaskSpec) -> tuple[Container, bool]:
    """(container, whether it is gzipped) of a file, from its first MiB."""
    with RawStream(path) as stream:
        head = stream.buffered().read(_HEAD)
        return container_of(head, len(head) < _HEAD, file, spec), stream.compressed


def read_blocks(path: Path, file: str, spec: TaskSpec, size: int = 8 << 20) -> Iterator[Block]:
    """The rows of a raw file in blocks of about `size` bytes, in constant memory.

    What cannot be read is a record without a value and with findings. Only a document whose rows an expression must find
    (``data.fields.rows``, unless it is a plain path) is read as a whole.

    Args:
        file: Name of the file, as its rows are to be known by.
    """
    container, compressed = look_at(path, file, spec)
    with RawStream(path) as stream:
        if container.kind == "parquet" and not compressed:
            yield from in_blocks(read_parquet(path, file), file, size)
        elif container.kind == "json_lines":
            yield from read_json_lines(stream, file, size)
        elif container.kind == "json":
            yield from in_blocks(read_json_document(stream, file, spec), file, size)
        elif container.dialect is not None and not container.dialect.problem:
            yield from in_blocks(read_table(stream, file, spec, container.dialect), file, size)
        else:
            yield from in_blocks(_refused(stream, file, container), file, size)


def _refused(stream: RawStream, file: str, container: Container) -> Iterator[Record]:
    """One record that says why a file is not read."""
    head = stream.buffered().read(SHOWN)
    if stream.problem:
        yield broken_stream(stream, file, 1, head, 0)
        return
    rule, why = "csv_dialect" if container.kind == "csv" else "unknown_container", container.why
    if container.kind == "parquet":
        why = "the file is Parquet inside gzip, which cannot be read piece by piece"
    fix = container.dialect.fix if container.dialect else ""
    yield unreadable(rule, file, 1, f"the file was not read: {why}", fix or "save it as JSON Lines in UTF-8", head, 0)
