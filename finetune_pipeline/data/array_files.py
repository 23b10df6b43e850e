"""Many large .npy files, looked at without bringing them together in memory first.

Memory that a process has not used yet is what costs, and copying comes next: so files are mapped, those that are read from
end to end with all of their pages at once.
"""

from __future__ import annotations

import mmap
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
                    raise OSError(self._cut_off(at))
                at += count
        return held.view(self.dtype).reshape(self.shape)

    def _cut_off(self, there: int) -> str:
        return f"{self.path} ends after {there} of {self.nbytes} bytes: it was cut off; delete the artifact, run again"

    def all_mapped(self) -> np.ndarray:
        """The array, mapped, with all of its pages there at once: for one pass over it, which no copy is made for. Raises
        OSError where the file was cut off."""
        if not self.nbytes:
            return np.zeros(self.shape, self.dtype)
        shared = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        with self.path.open("rb", buffering=0) as handle:
            try:
                pages = mmap.mmap(handle.fileno(), self.offset + self.nbytes, shared, mmap.PROT_READ)
            except ValueError as error:
                raise OSError(self._cut_off(self.path.stat().st_size - self.offset)) from error
        return np.frombuffer(pages, self.dtype, int(np.prod(self.shape)), self.offset).reshape(self.shape)

    def mapped(self) -> np.ndarray:
        """The array, mapped: what is looked at is read. Raises OSError where the file was cut off."""
        if not self.nbytes:
            return np.zeros(self.shape, self.dtype)
        try:
            return np.asarray(np.memmap(self.path, self.dtype, "r", self.offset, self.shape))
        except ValueError as error:
            raise OSError(self._cut_off(self.path.stat().st_size - self.offset)) from error


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


class Columns:
    """The records of several files, one below the other, read column by column: ``columns["name"]`` (contiguous) is made
    when it is first asked for. Whole records are never brought together: most columns of most data sets are not needed."""

    def __init__(self, files: Sequence[ArrayFile], dtype: np.dtype) -> None:
        for file in files:
            if file.dtype != dtype:
                raise ValueError(f"{file.path} holds {file.dtype}, not {dtype}: it was written by another version")
        self._pieces = [file.mapped() for file in files]
        self._dtype = dtype
        self._made: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._made:
            column = np.empty(len(self), self._dtype[name])
            at = 0
            for piece in self._pieces:
                column[at : at + len(piece)] = piece[name]
                at += len(piece)
            column.setflags(write=False)
            self._made[name] = column
        return self._made[name]
