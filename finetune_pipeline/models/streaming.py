"""Reads and writes safetensors a few rows at a time: memory use does not depend on the model's size.

The safetensors library maps a file into memory and keeps every page it has touched; this module only lets it validate headers.
Format: 8 bytes with the header's length, the header (JSON), then the tensors' bytes, row-major, little-endian.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from finetune_pipeline.faults import JobError
from finetune_pipeline.models.model_files import StoredTensor, tensor_header

TORCH_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Dtypes used in computations; others (8-bit floats) are copied byte for byte."""
_BLOCK_ELEMENTS = 1 << 21
_COPY_BYTES = 1 << 24


def new_tensor(dtype: str, shape: tuple[int, ...]) -> StoredTensor:
    """Return a tensor to be written, with its size; `dtype` must be one of :data:`TORCH_TYPES`."""
    return StoredTensor(dtype, shape, math.prod(shape) * TORCH_TYPES[dtype].itemsize)


class TensorFile:
    """A safetensors file, read in pieces. `entries`: its tensors by name; `metadata`: from the header."""

    def __init__(self, path: Path) -> None:
        """Raises DamagedFile if the file is not a complete safetensors file."""
        if sys.byteorder != "little":
            raise JobError("weights are read and written on little-endian machines only", "use another machine")
        self.path = path
        self.entries, self.metadata = tensor_header(path)

    def _read(self, start: int, size: int) -> torch.Tensor:
        read = np.fromfile(self.path, np.uint8, size, offset=start)
        if len(read) < size:
            raise JobError(f"{self.path.name} ends too early", "fetch the file again")
        return torch.from_numpy(read) if size else torch.empty(0, dtype=torch.uint8)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Read rows [start, stop) of a tensor in its stored dtype. A scalar counts as one row."""
        entry = self.entries[name]
        dtype = TORCH_TYPES[entry.dtype]
        row = entry.row_elements * dtype.itemsize
        read = self._read(entry.start + start * row, (stop - start) * row)
        return read.view(dtype).view((stop - start, *entry.shape[1:]) if entry.shape else ())

    def tensor(self, name: str) -> torch.Tensor:
        """Read a whole tensor."""
        return self.rows(name, 0, self.entries[name].rows)

    def blocks(self, name: str) -> Iterator[tuple[int, int]]:
        """Yield ranges of rows that cover a tensor in order, 2 Mi elements each (at least one row)."""
        entry = self.entries[name]
        step = max(1, _BLOCK_ELEMENTS // max(1, entry.row_elements))
        step -= step % 64 if step > 64 else 0  # whole tiles of the matrix product, for the same sums as in one piece
        for start in range(0, entry.rows, step):
            yield start, min(start + step, entry.rows)

    def pieces(self, name: str) -> Iterator[memoryview]:
        """Yield the bytes of a tensor of any dtype in pieces of 16 MiB."""
        entry = self.entries[name]
        for start in range(0, entry.size, _COPY_BYTES):
            yield _bytes(self._read(entry.start + start, min(_COPY_BYTES, entry.size - start)))


def _bytes(buffer: torch.Tensor) -> memoryview:
    return memoryview(buffer.numpy())  # type: ignore[arg-type]


def write_tensors(
    path: Path,
    tensors: Mapping[str, StoredTensor],
    pieces: Callable[[str], Iterable[torch.Tensor | memoryview]],
    metadata: Mapping[str, str],
) -> str:
    """Write a safetensors file, tensor by tensor, in the library's order: widest dtype first, then by name.

    pieces: yields a tensor's bytes in order. Returns the file's SHA-256. Raises ValueError if the pieces are not as long as the
    tensor's shape says.
    """

    def width(tensor: StoredTensor) -> int:
        """Return the bytes of one element."""
        kind = TORCH_TYPES.get(tensor.dtype)
        return kind.itemsize if kind is not None else tensor.size // max(1, math.prod(tensor.shape))

    order = sorted(tensors, key=lambda name: (-width(tensors[name]), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in order:
        tensor, end = tensors[name], offset + tensors[name].size
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:

        def put(data: bytes | memoryview) -> int:
            digest.update(data)
            return file.write(data)

        put(len(text).to_bytes(8, "little") + text)
        for name in order:
            written = 0
            for piece in pieces(name):
                if isinstance(piece, torch.Tensor):
                    written += put(_bytes(piece.contiguous().reshape(-1).view(torch.uint8)))
                else:
                    written += put(piece)
            if written != tensors[name].size:
                raise ValueError(f"{path.name}: {name!r} has {tensors[name].size} bytes, but {written} were written")
    return digest.hexdigest()
