"""Any raw file in, blocks of records out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finetune_pipeline.data.readers.containers import Container, container_of
from finetune_pipeline.data.readers.json_document import read_json_document
from finetune_pipeline.data.readers.json_lines import read_json_lines
from finetune_pipeline.data.readers.parquet import read_parquet
from finetune_pipeline.data.readers.raw_stream import RawStream
from finetune_pipeline.data.readers.records import SHOWN, Block, Record, broken_stream, in_blocks, unreadable
from finetune_pipeline.data.readers.tables import read_table
from finetune_pipeline.spec import TaskSpec

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
