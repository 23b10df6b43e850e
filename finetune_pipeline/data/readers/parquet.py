"""Parquet files, a batch of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.data.readers.records import Block, Record, problem

_ROWS = 10_000
_BATCH = 1_000


def read_parquet(path: Path, file: str) -> Iterator[Block]:
    """Blocks of 10,000 rows; `line` is the number of the row. Needs a file on disk, and no more memory than a batch."""
    import pyarrow
    import pyarrow.parquet as pq

    records: list[Record] = []
    number = 0
    try:
        with pq.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if len(set(names)) < len(names):
                raise ValueError("two columns have the same name")
            for batch in table.iter_batches(batch_size=_BATCH):
                for row in _rows(batch):
                    number += 1
                    records.append(_record(row, number, file))
                    if len(records) == _ROWS:
                        yield Block(file, "records", records[0].line, b"", tuple(records))
                        records = []
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        said = quoted(" ".join(str(error).split()), 200)
        finding = problem(
            "bad_parquet",
            f"{file}:{number + 1}",
            f"the Parquet file cannot be read behind row {number}: {said}",
            "write or copy the file again",
        )
        records.append(Record(number + 1, None, b"", (finding,)))
    if records:
        yield Block(file, "records", records[0].line, b"", tuple(records))


def _rows(batch: Any) -> list[dict[str, Any] | Exception]:
    """The rows of a batch; where one cannot be turned into Python's values, what that says instead."""
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
        return Record(number, None, b"", (problem(rule, f"{file}:{number}", message, "write the file again"),))
    value = {name: _plain(item) for name, item in row.items()}
    return Record(number, value, _shown(value), flat=True)


def _shown(value: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError):
        return repr(value).encode("utf-8", "backslashreplace")


def _plain(value: Any) -> Any:
    """A value as JSON would have it; dates stay dates, since `data.fields.time` reads them."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Decimal):
        return float(value) if value.is_finite() else None
    if isinstance(value, datetime | date | str | int | bool) or value is None:
        return value
    if isinstance(value, time | timedelta):
        return str(value)
    return str(value)
