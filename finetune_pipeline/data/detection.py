"""Detects what a raw file is and which format its rows are in, and says why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.data.fields import mapping_of
from finetune_pipeline.data.formats import FORMATS, format_of
from finetune_pipeline.data.json_lines import is_blank
from finetune_pipeline.data.readers.blocks import Block, look_at, read_blocks
from finetune_pipeline.spec import TaskSpec

SAMPLE = 200
_SIZE = 1 << 16


@dataclass(frozen=True)
class Detected:
    """What a file looks like.

    Attributes:
        container: json_lines, json, csv, parquet or unknown.
        compressed: Whether it is gzipped.
        shape: A format of the registry, mapped, mixed or unknown.
        reason: One sentence.
        details: The dialect of a table (delimiter, quote, header, columns).
    """

    container: str
    compressed: bool
    shape: str
    reason: str
    details: dict[str, Any] = field(default_factory=dict)


def detect(path: Path, file: str, spec: TaskSpec) -> Detected:
    """Look at the first rows of a raw file."""
    container, compressed = look_at(path, file, spec)
    details: dict[str, Any] = {}
    if container.dialect is not None and not container.dialect.problem:
        d = container.dialect
        details = {"delimiter": d.delimiter, "quote": d.quote, "header": d.header, "columns": list(d.columns)}
    if container.kind == "unknown" or (container.dialect is not None and container.dialect.problem):
        return Detected(container.kind, compressed, "unknown", container.why, details)
    mapping = mapping_of(spec)
    counts: Counter[str] = Counter()
    seen = 0
    for value, key in _values(read_blocks(path, file, spec, _SIZE)):
        if seen == SAMPLE:
            break
        seen += 1
        if mapping is not None:
            mapped = mapping.apply(value, file, key, "")[0]
            if mapping.content:
                counts.update([] if mapped.findings else ["mapped"])
                continue
            value = mapped.row  # noqa: PLW2901
        if isinstance(value, dict) and (shape := format_of(value)):
            counts[shape] += 1
    why = f"{'gzip; ' if compressed else ''}{container.why}"
    if not seen:
        return Detected(container.kind, compressed, "unknown", f"{why}; the file holds no rows", details)
    held = {**{name: of.described for name, of in FORMATS.items()}, "mapped": "what data.fields names"}
    told = " and ".join(f"{n} hold {held[shape]}" for shape, n in counts.most_common()) or "none is in a known format"
    shape = "unknown" if not counts else next(iter(counts)) if len(counts) == 1 else "mixed"
    return Detected(container.kind, compressed, shape, f"{why}; of the first {seen} rows {told}", details)


def _values(blocks: Iterator[Block]) -> Iterator[tuple[Any, str | None]]:
    """(value, key) of every row; None for one that cannot be read."""
    for block in blocks:
        for line in block.data.split(b"\n") if block.kind == "lines" else ():
            if not is_blank(line):
                yield _decoded(line.removeprefix(b"\xef\xbb\xbf")), None
        for record in block.records:
            yield (_decoded(record.raw) if record.encoded else record.value), record.key


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
