"""Where the rows of a split are: one plain file for a small set, blocks shared with earlier splits for a large one.

    train/examples.jsonl, validation/examples.jsonl, test/sealed.jsonl          small sets
    train/parts.json, train/parts/<key>/examples.jsonl, …                       large sets

:func:`examples_of` gives the path of either, which ``read_examples`` and ``stream_examples`` read. A block holds the rows
that one part of the reviewed rows gives to the split; where they are those of an earlier splits artifact it is a link.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from finetune_pipeline.artifacts import DIGESTS, digest_file, read_json
from finetune_pipeline.data.examples import INDEX, PARTS, Example, example_files
from finetune_pipeline.data.json_lines import combine_digests
from finetune_pipeline.data.ledger import SPLITS
from finetune_pipeline.data.parts import part_key, seal_part, take_over, write_index

FILES = {"train": "train/examples.jsonl", "validation": "validation/examples.jsonl", "test": "test/sealed.jsonl"}


def examples_of(splits: Path, name: str) -> Path:
    """The file, or the folder of blocks, with the rows of a split. Raises FileNotFoundError naming what is missing."""
    file = splits / FILES[name]
    if file.is_file():
        return file
    if not (file.parent / INDEX).is_file():
        raise FileNotFoundError(f"{splits} holds no rows of the split {name!r}")
    return file.parent


def digest_examples(path: Path, trust: bool = False) -> str:
    """Hex SHA-256 of an examples file, or over those of a folder's blocks in their order. `trust`: blocks are not read
    again, what was written down when they were made is believed."""
    if path.is_file():
        return digest_file(path)

    def digests() -> Iterator[tuple[str, str]]:
        for file in example_files(path):
            yield file.name, read_json(file.parent / DIGESTS)[file.name] if trust else digest_file(file)

    return combine_digests(digests())


class SplitWriter:
    """Writes the rows of a split set, part after part. `blocks`: into blocks, taken over from `earlier` splits folders
    where they can be; otherwise into one file a split. `seal` makes the rows of the test unreadable: those of a block at
    once, a file with :meth:`seal`, when all that has to read it has done so."""

    def __init__(
        self, out: Path, blocks: bool, earlier: Sequence[Path], seal: Callable[[bytes], bytes] | None = None
    ) -> None:
        self._out, self._blocks, self._earlier, self._seal = out, blocks, earlier, seal
        self._sealed_with = hashlib.sha256(seal(b"\n")).hexdigest() if seal else ""
        self._index: dict[str, list[dict[str, Any]]] = {name: [] for name in SPLITS}
        for name in SPLITS:
            (out / FILES[name]).parent.mkdir(parents=True, exist_ok=True)
            if not blocks:
                (out / FILES[name]).touch()

    def part(self, key: str, path: Path, codes: np.ndarray) -> None:
        """The rows of one part: its key, its examples file, and for each of its rows the split (place in SPLITS; < 0: none)."""
        lines: list[bytes] | None = None
        for code, name in enumerate(SPLITS):
            mask = codes == code
            if not mask.any():
                continue
            sealed = self._sealed_with if name == "test" else ""
            block = part_key("split", key, sealed, np.packbits(mask).tobytes().hex(), len(mask))
            if self._blocks and take_over(PARTS, block, self._out / name, [e / name for e in self._earlier]):
                self._note(name, block, int(mask.sum()))
                continue
            if lines is None:
                lines = path.read_bytes().splitlines(keepends=True)
            self._write(name, block, list(compress(lines, mask.tolist())))

    def rows(self, code: int, examples: Sequence[Example]) -> None:
        """Rows that come from no part."""
        if examples:
            lines = [msgspec.json.encode(e.to_dict()) + b"\n" for e in examples]
            sealed = self._sealed_with if SPLITS[code] == "test" else ""
            self._write(SPLITS[code], part_key("rows", sealed, [e.to_dict() for e in examples]), lines)

    def finish(self) -> None:
        """Name the blocks, once all are there."""
        if self._blocks:
            for name, parts in self._index.items():
                write_index(self._out / name, parts)

    def seal(self) -> None:
        """Seal the file of the test; blocks are sealed already."""
        file = self._out / FILES["test"]
        if self._seal and not self._blocks:
            file.write_bytes(self._seal(file.read_bytes()))

    def _note(self, name: str, block: str, kept: int) -> None:
        self._index[name].append({"key": block, "kept": kept})

    def _write(self, name: str, block: str, lines: list[bytes]) -> None:
        if not self._blocks:
            with (self._out / FILES[name]).open("ab") as file:
                file.write(b"".join(lines))
            return
        making = self._out / name / PARTS / f".making-{block}"
        making.mkdir(parents=True, exist_ok=True)
        data = b"".join(lines)
        (making / "examples.jsonl").write_bytes(self._seal(data) if self._seal and name == "test" else data)
        seal_part(making, self._out / name / PARTS / block)
        self._note(name, block, len(lines))
