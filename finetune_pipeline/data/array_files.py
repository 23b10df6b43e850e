"""Many large .npy files read one after the other into memory that is there already.

Mapping a file costs a page fault for every 4 KiB that is touched; reading into memory that was used before costs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

_LEAST_HEADER = 128  # bytes; what numpy writes is padded to a multiple of 64


@dataclass(frozen=True)
class ArrayFile:
    """What the header of a .npy file says: the array's type and shape, and where in the file it begins (bytes)."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def read_into(self, buffer: np.ndarray) -> np.ndarray:
        """The array, read to the beginning of `buffer` (uint8) and seen there in its shape."""
        held = buffer[: self.nbytes]
        with self.path.open("rb", buffering=0) as handle:
            handle.seek(self.offset)
            at = 0
            while at < len(held):  # one read gives two gigabytes at most
                count = handle.readinto(held[at:].data)
                if not count:
                    raise OSError(
                        f"{self.path} ends after {at} of {len(held)} bytes: it was cut off; "
                        "delete the artifact, run again"
                    )
                at += count
        return held.view(self.dtype).reshape(self.shape)

    def rows(self, which: np.ndarray) -> np.ndarray:
        """Some rows of the array (int64); only the pages they are on are read."""
        mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        return np.asarray(mapped[which])


def array_file(path: Path) -> ArrayFile:
    """A .npy file in C order, nothing but its header read. Raises OSError where it is none, or cut off in its header."""
    with path.open("rb", buffering=0) as handle:
        head = handle.read(_LEAST_HEADER)
        try:
            dtype, shape, offset = _header(head)
        except ValueError:  # a longer header
            handle.seek(0)
            try:
                dtype, shape, offset = _header(handle.read(1 << 16))
            except ValueError as error:
                raise OSError(
                    f"{path} is no .npy file, or was cut off: {error}; delete the artifact, run again"
                ) from error
    return ArrayFile(path, dtype, shape, offset)


@lru_cache(maxsize=512)
def _header(head: bytes) -> tuple[np.dtype, tuple[int, ...], int]:
    """(type, shape, length of the header) told by the first bytes of a file. Hundreds of parts have the same few."""
    handle = BytesIO(head)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(npy.read_magic(handle))
    if read is None:
        raise ValueError("a version of the format that is not known here")
    shape, fortran, dtype = read(handle)
    if fortran or dtype.hasobject:
        raise ValueError("an array that cannot be read in one piece")
    return dtype, shape, handle.tell()


def stacked(paths: Sequence[Path], dtype: np.dtype) -> np.ndarray:
    """The arrays of several files, one below the other; `dtype`: what they must be."""
    files = [array_file(path) for path in paths]
    rows = np.empty(sum(map(len, files)), dtype)
    buffer, at = rows.view(np.uint8), 0
    for file in files:
        if file.dtype != dtype:
            raise ValueError(f"{file.path} holds {file.dtype}, not {dtype}: it was written by another version")
        file.read_into(buffer[at:])
        at += file.nbytes
    return rows
