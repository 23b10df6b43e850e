"""Reads any raw file as records."""

import json
import math
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from finetune_pipeline.data.json_lines import MAX_LINE_BYTES, is_cut_off
from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.data.readers import records
from finetune_pipeline.data.readers.containers import Container, container_of
from finetune_pipeline.data.readers.encoding import Survey, survey
from finetune_pipeline.data.readers.json_document import begins_row, read_json_document
from finetune_pipeline.data.readers.records import SHOWN, About, RawStream, Record, is_utf8, read_lines
from finetune_pipeline.data.readers.tables import read_table
from finetune_pipeline.data.readers.workbooks import read_workbook
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec import TaskSpec

_HEAD_BYTES = 1 << 20
_BATCH_ROWS = 1_000
_BATCH_BYTES = 64 << 20
"""Rows of a Parquet file that unpack to more are converted one by one."""
_LEAST_BYTES = 4
"""Memory that each value of a Parquet file takes at least, however often it is repeated in the file."""
_REPLACEMENT_CHARACTER = "\ufffd".encode()


def look_at(path: Path, file: str, spec: TaskSpec, surveyed: Survey | None = None) -> tuple[Container, Survey]:
    """Detect a file's type from its first MiB, and survey the whole file, unless it is known."""
    surveyed = surveyed or survey(path, file, spec)
    if surveyed.problem:
        return Container("unknown", surveyed.problem.message), surveyed
    with RawStream(path, surveyed.encoding, surveyed.returns) as stream:
        head = stream.buffered().read(_HEAD_BYTES)
        return container_of(head, len(head) < _HEAD_BYTES, file, spec), surveyed


def read_records(path: Path, file: str, spec: TaskSpec, surveyed: Survey | None = None) -> Iterator[Record]:
    """Read the rows of a raw file, without blank lines. Unreadable rows become records with findings and without a value.
    Takes constant memory, except for JSON documents. file: the name used as the rows' source. surveyed: the file's survey, if
    known."""
    container, surveyed = look_at(path, file, spec, surveyed)
    if notes := (surveyed.problem,) if surveyed.problem else surveyed.notes:
        yield Record(1, None, b"", notes, about="file")
    if surveyed.problem:
        return
    rows, decoded = 0, not is_utf8(surveyed.encoding)
    with RawStream(path, surveyed.encoding, surveyed.returns) as stream:
        for record in _read(stream, path, file, spec, container):
            rows += 1
            yield _refuse_undecodable(record, file, surveyed.encoding) if decoded else record
    if not rows:
        reason = "blank lines only" if container.kind == "json_lines" else "no rows"
        if not surveyed.size:
            reason = "nothing"
        yield records.about_file("no_rows", file, f"the file holds {reason}", "fill or remove the file", "warning")


def _read(stream: RawStream, path: Path, file: str, spec: TaskSpec, container: Container) -> Iterator[Record]:
    if container.kind == "parquet" and not stream.compressed:
        yield from _read_parquet(path, file, spec)
    elif container.kind == "workbook" and not stream.compressed:
        yield from read_workbook(path, file, spec)
    elif container.kind == "json_lines":
        yield from _read_json_lines(stream, file, spec)
    elif container.kind == "json":
        yield from read_json_document(stream, file, spec)
    elif container.dialect is not None and not container.dialect.problem:
        yield from read_table(stream, file, spec, container.dialect)
    else:
        yield _report_unread_file(stream, file, container)


def _refuse_undecodable(record: Record, file: str, encoding: str) -> Record:
    """Turn a row with bytes that could not be decoded into one with a finding and no value; other rows stay."""
    if _REPLACEMENT_CHARACTER not in record.raw:
        return record
    message, fix = f"the row holds bytes that are not {encoding}", "declare the right data.csv.encoding"
    finding = Finding("data.invalid_encoding", "error", f"{file}:{record.line}", message, fix)
    return replace(record, value=None, encoded=False, raw=record.raw[:SHOWN], findings=(*record.findings, finding))


def _report_unread_file(stream: RawStream, file: str, container: Container) -> Record:
    if name := {"parquet": "Parquet", "workbook": "a workbook"}.get(container.kind):
        message = f"the file was not read: it is {name} inside gzip"
        return records.about_file("unknown_container", file, message, "unpack it")
    head = stream.buffered().read(SHOWN)
    if stream.problem:
        return records.broken_stream(stream, file, 1, head, 0)
    rule, fix = "unknown_container", "unpack it, or save it as JSON Lines or CSV in UTF-8"
    if container.dialect is not None:
        rule, fix = "csv_dialect" if container.kind == "csv" else rule, container.dialect.fix
    return records.about_file(rule, file, f"the file was not read: {container.why}", fix)


def _read_json_lines(stream: RawStream, file: str, spec: TaskSpec) -> Iterator[Record]:
    number = end = 0
    is_document = file.lower().removesuffix(".gz").endswith(".json")
    for line in read_lines(stream.buffered(), MAX_LINE_BYTES):
        number, data, at = line.number, line.data, line.at
        end = at + len(data)
        notes = (records.byte_order_mark(file, number),) if line.marked else ()
        about: About = "row"
        if line.cut:
            yield records.too_long(file, number, MAX_LINE_BYTES, data, at)
            continue
        if not data.endswith(b"\n"):
            if stream.problem:
                yield records.broken_stream(stream, file, number, data, at)
                return
            is_one_row = is_document and number == 1 and begins_row(data, spec)
            about = "rest" if is_cut_off(data) and not is_one_row else "row"
        raw = data.rstrip()  # a line may end with a comma, like an element of a list
        raw = raw[:-1] if raw.endswith(b"},") else data.rstrip(b"\r\n")
        yield Record(number, None, raw, notes, at, encoded=True, about=about)
    if stream.problem:
        yield records.broken_stream(stream, file, number + 1, b"", end)


def _read_parquet(path: Path, file: str, spec: TaskSpec) -> Iterator[Record]:
    """Read the rows of a Parquet file batch by batch; `line` is the number of the row."""
    import pyarrow
    import pyarrow.parquet as pq

    number = 0
    try:
        limit = int(spec.data.max_unpacked_gib * (1 << 30))
        with pq.ParquetFile(path, read_dictionary=_text_columns(path)) as table:
            names = table.schema_arrow.names
            if twice := [name for i, name in enumerate(names) if name in names[:i]]:
                message = f"the file was not read: two columns have the name {quoted(twice[0])}"
                fix = "write it again, with a name of its own for each"
                yield records.about_file("bad_parquet", file, message, fix)
                return
            groups = [table.metadata.row_group(i) for i in range(table.metadata.num_row_groups)]
            values = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
            if max(sum(group.total_byte_size for group in groups), values * _LEAST_BYTES) > limit:
                yield records.too_large(file, limit)
                return
            classes = _class_names(table.schema_arrow.metadata, spec.labels)
            left = limit
            for batch in table.iter_batches(batch_size=_BATCH_ROWS):
                step = batch.num_rows if _unpacked_bytes(batch) <= _BATCH_BYTES else 1
                for part in (batch.slice(i, step) for i in range(0, batch.num_rows, step)):
                    size = _unpacked_bytes(part)
                    left -= size
                    if left < 0:
                        yield records.too_large(file, limit, number)
                        return
                    if step == 1 and size > MAX_LINE_BYTES:
                        number += 1
                        yield records.too_long(file, number, MAX_LINE_BYTES, b"", None)
                        continue
                    for row in _batch_rows(part):
                        number += 1
                        yield _parquet_record(row, number, file, classes)
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        reason = quoted(" ".join(str(error).split()), 200)
        yield records.broken_file("bad_parquet", file, "Parquet file", number, reason, "write or copy the file again")


def _text_columns(path: Path) -> list[str]:
    """Return the paths of columns of texts. They are read as dictionaries: one text of a MiB, stored once, may stand in every
    one of a million rows."""
    import pyarrow.parquet as pq

    schema = pq.read_metadata(path).schema
    columns = [schema.column(i) for i in range(len(schema.names))]
    is_text = (c.physical_type == "BYTE_ARRAY" and c.logical_type.type != "DECIMAL" for c in columns)
    return [column.path for column, is_in in zip(columns, is_text, strict=True) if is_in]


def _unpacked_bytes(array: Any) -> int:
    """Return the bytes of the values of an array or a batch, each counted as often as it occurs."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(array, pa.RecordBatch):
        return sum(map(_unpacked_bytes, array.columns))
    if isinstance(array, pa.DictionaryArray):
        lengths = pc.fill_null(pc.binary_length(array.dictionary), 0).cast(pa.int64())
        return int(pc.sum(lengths.take(array.indices.drop_null())).as_py() or 0) + 4 * len(array)
    if isinstance(array, pa.StructArray):
        return sum(map(_unpacked_bytes, array.flatten()))
    if isinstance(array, pa.MapArray):
        return _unpacked_bytes(array.keys) + _unpacked_bytes(array.items)
    if isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return _unpacked_bytes(array.flatten())
    return int(array.nbytes)


def _class_names(metadata: dict[bytes, bytes] | None, labels: list[str]) -> dict[str, list[str]]:
    """Return the class names of each column, which Hugging Face datasets writes into the schema; the rows hold only numbers.
    Columns whose class names include none of the task's labels are left out: their numbers stay."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        classes = {}
        for column, feature in features.items():
            inner = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
            if inner.get("_type") == "ClassLabel":
                classes[column] = inner["names"]
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError):
        return {}

    def is_usable(names: Any) -> bool:
        are_texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return are_texts and len({*names}) == len(names) and not (labels and {*names}.isdisjoint(labels))

    return {column: names for column, names in classes.items() if is_usable(names)}


def _with_class_names(value: Any, names: list[str] | None) -> Any:
    """Replace a class number, or each of a list of them, by its name; -1 means no class."""
    if names and isinstance(value, list):
        return [_with_class_names(item, names) for item in value]
    if not names or not isinstance(value, int) or value >= len(names):
        return value
    return names[value] if value >= 0 else None


def _batch_rows(batch: Any) -> list[dict[str, object] | Exception]:
    """Return the rows of a batch; an exception for each row that cannot be converted to Python values."""
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError, TypeError) as error:
        if batch.num_rows == 1:
            return [error]
        return [row for i in range(batch.num_rows) for row in _batch_rows(batch.slice(i, 1))]


def _parquet_record(
    row: dict[str, object] | Exception, number: int, file: str, classes: dict[str, list[str]]
) -> Record:
    if isinstance(row, Exception):
        rule = "invalid_utf8" if isinstance(row, UnicodeDecodeError) else "bad_parquet"
        message = f"the row cannot be read: {quoted(str(row), 160)}"
        return records.unreadable(rule, file, number, message, "write the file again")
    value = {name: _as_json(_with_class_names(item, classes.get(name))) for name, item in row.items()}
    try:
        raw = msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError):
        raw = repr(value).encode("utf-8", "backslashreplace")
    return Record(number, value, raw, flat=True)


def _as_json(value: Any) -> Any:
    """Convert a value to JSON types; dates stay dates, because `data.fields.time` reads them."""
    if isinstance(value, list) and value and all(isinstance(pair, tuple) for pair in value):  # a map
        mapping = {str(key): item for key, item in value}
        value = mapping if len(mapping) == len(value) else value
    if isinstance(value, dict):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if value is None or isinstance(value, datetime | date | str | int) else str(value)
