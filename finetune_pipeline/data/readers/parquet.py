"""Parquet files, a batch of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.data.readers.records import Record, unreadable

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
