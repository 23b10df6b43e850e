"""JSON Lines: blocks of whole lines."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_pipeline.data.json_lines import MAX_LINE_BYTES
from finetune_pipeline.data.readers.raw_stream import RawStream
from finetune_pipeline.data.readers.records import Block, Record, broken_stream, too_long


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
