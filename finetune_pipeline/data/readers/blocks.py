"""The door to raw files: any container in, blocks of records out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finetune_pipeline.data.readers.containers import Container, container_of
from finetune_pipeline.data.readers.json_document import read_json_document
from finetune_pipeline.data.readers.json_lines import SHOWN, broken_stream, read_json_lines
from finetune_pipeline.data.readers.parquet import read_parquet
from finetune_pipeline.data.readers.raw_stream import RawStream
from finetune_pipeline.data.readers.records import Block, Record, problem
from finetune_pipeline.data.readers.tables import read_table
from finetune_pipeline.spec import TaskSpec

__all__ = ["Block", "Record", "look_at", "read_blocks"]

_HEAD = 1 << 20


def look_at(path: Path, file: str, spec: TaskSpec) -> tuple[Container, bool]:
    """(container, whether it is gzipped) of a file, from its first MiB."""
    with RawStream(path) as stream:
        head = b""
        while len(head) < _HEAD and (piece := stream.read(_HEAD - len(head))):
            head += piece
        return container_of(head, len(head) < _HEAD, file, spec), stream.compressed


def read_blocks(path: Path, file: str, spec: TaskSpec, size: int = 8 << 20) -> Iterator[Block]:
    """The rows of a raw file, in blocks of about `size` bytes, in constant memory.

    `file`: the name rows are to be known by. Blocks end at the first line (or row) end at or after each multiple of
    `size`, so that a file that has only grown gives the same blocks as before, and then new ones. What cannot be read is
    a record without a value and with findings: nothing is lost in silence. Only a document whose rows a JMESPath
    expression must find (``data.fields.rows``, unless it is a plain path) is read as a whole.
    """
    container, compressed = look_at(path, file, spec)
    if container.kind == "parquet" and not compressed:
        yield from read_parquet(path, file)
        return
    with RawStream(path) as stream:
        if container.kind == "json_lines":
            yield from read_json_lines(stream, file, size)
        elif container.kind == "json":
            yield from read_json_document(stream, file, spec, size, container.bom)
        elif container.dialect is not None and not container.dialect.problem:
            yield from read_table(stream, file, spec, container.dialect, size, container.bom)
        else:
            yield from _refused(stream, file, container)


def _refused(stream: RawStream, file: str, container: Container) -> Iterator[Block]:
    """One record that says why a file is not read; a file of blanks alone is a block of blank lines."""
    head = stream.read(SHOWN)
    if stream.problem:
        yield Block(file, "records", 1, b"", (broken_stream(stream, file, 1, head, 0),))
    elif head.strip():
        why, rule = container.why, "csv_dialect" if container.kind == "csv" else "unknown_container"
        if container.kind == "parquet":
            why = "the file is Parquet inside gzip, which cannot be read piece by piece"
        fix = "declare data.csv, or save the file as JSON Lines in UTF-8"
        finding = problem(rule, f"{file}:1", f"the file was not read: {why}", fix)
        yield Block(file, "records", 1, b"", (Record(1, None, head, (finding,), 0),))
    elif head:
        yield Block(file, "lines", 1, head)
