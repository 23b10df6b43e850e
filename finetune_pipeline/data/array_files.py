"""Many large .npy files read one after the other into memory that is there already.

Mapping a file costs a page fault for every 4 KiB that is touched; reading into memory that was used before costs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def mapped(path: Path) -> np.memmap:
    """The array in a .npy file, nothing of it read yet."""
    array = np.load(path, mmap_mode="r")
    assert isinstance(array, np.memmap)
    return array


def read_into(path: Path, array: np.memmap, buffer: np.ndarray) -> np.ndarray:
    """The array of a file (see :func:`mapped`), read to the beginning of `buffer` (uint8) and seen there in its shape."""
    held = buffer[: array.nbytes]
    with path.open("rb", buffering=0) as handle:
        handle.seek(array.offset)
        at = 0
        while at < len(held):  # one read gives two gigabytes at most
            count = handle.readinto(held[at:].data)
            if not count:
                raise OSError(
                    f"{path} ends after {at} of {len(held)} bytes: it was cut off; delete the artifact, run again"
                )
            at += count
    return held.view(array.dtype).reshape(array.shape)


def stacked(paths: Sequence[Path], dtype: np.dtype) -> np.ndarray:
    """The arrays of several files, one below the other; `dtype`: what they must be."""
    arrays = [mapped(path) for path in paths]
    rows = np.empty(sum(map(len, arrays)), dtype)
    buffer, at = rows.view(np.uint8), 0
    for path, array in zip(paths, arrays, strict=True):
        if array.dtype != dtype:
            raise ValueError(f"{path} holds {array.dtype}, not {dtype}: it was written by another version")
        read_into(path, array, buffer[at:])
        at += array.nbytes
    return rows
