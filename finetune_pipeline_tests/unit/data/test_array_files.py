"""Arrays read from several files into memory that is there already."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from finetune_pipeline.data.array_files import Columns, array_file
from finetune_pipeline.data.band_search import sharing
from finetune_pipeline.data.buckets import COLUMNS

KIND = np.dtype([("id", "<u8"), ("line", "<i4"), ("flag", "?")])


def written(folder: Path, name: str, array: np.ndarray) -> Path:
    np.save(folder / name, array)
    return folder / f"{name}.npy"


def rows(count: int, seed: int) -> np.ndarray:
    made = np.zeros(count, KIND)
    made["id"] = np.random.default_rng(seed).integers(0, 2**63, count)
    made["line"], made["flag"] = np.arange(count), np.arange(count) % 3 == 0
    return made


def test_columns_of_files_come_in_their_order_empty_files_too(tmp_path: Path) -> None:
    pieces = [rows(5, 1), rows(0, 2), rows(1000, 3)]
    columns = Columns([array_file(written(tmp_path, f"{k}", piece)) for k, piece in enumerate(pieces)], KIND)
    assert len(columns) == 1005
    for name in KIND.names or ():
        assert np.array_equal(columns[name], np.concatenate(pieces)[name])
        assert columns[name].flags.c_contiguous
    assert len(Columns([], KIND)["id"]) == 0


def test_a_file_of_another_kind_or_cut_off_is_named(tmp_path: Path) -> None:
    other = written(tmp_path, "other", np.arange(5))
    with pytest.raises(ValueError, match=r"other\.npy holds int64"):
        Columns([array_file(other)], KIND)
    path = written(tmp_path, "short", rows(10, 1))
    file = array_file(path)
    with path.open("r+b") as handle:
        handle.truncate(path.stat().st_size - 7)
    with pytest.raises(OSError, match=r"short\.npy ends after"):
        file.read_into(np.empty(file.nbytes, np.uint8))
    with pytest.raises(OSError, match="cut off"):
        file.all_mapped()
    with pytest.raises(OSError, match=r"short\.npy ends after"):
        file.mapped()
    with path.open("r+b") as handle:
        handle.truncate(50)
    with pytest.raises(OSError, match=r"short\.npy is no \.npy file, or was cut off"):
        array_file(path)


def test_headers_of_every_length_and_shape_are_read(tmp_path: Path) -> None:
    wide = np.zeros(3, [(f"a_long_name_of_a_column_{i}", "<i4") for i in range(200)])
    wide["a_long_name_of_a_column_7"] = [1, 2, 3]
    for name, array in (("wide", wide), ("table", np.arange(12.0).reshape(4, 3)), ("none", np.zeros((0, 5), np.uint8))):
        file = array_file(written(tmp_path, name, array))
        assert (file.dtype, file.shape, file.nbytes, len(file)) == (array.dtype, array.shape, array.nbytes, len(array))
        assert np.array_equal(file.read_into(np.empty(file.nbytes, np.uint8)), array)
        assert np.array_equal(file.all_mapped(), array) and file.all_mapped().dtype == array.dtype
        which = np.arange(len(array))[::2]
        assert np.array_equal(file.mapped()[which], array[which])
    with pytest.raises(OSError, match="cannot be read in one piece"):
        array_file(written(tmp_path, "columns_first", np.asfortranarray(np.arange(6).reshape(2, 3))))


def test_rows_that_share_a_key_are_the_same_from_files_and_from_arrays(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    pieces = [numbers.integers(0, 2**32, (n, COLUMNS), dtype=np.uint32) for n in (20_000, 0, 7, 15_000)]
    wanted = numbers.integers(0, 2**32, (30, COLUMNS), dtype=np.uint32)
    pieces[0][[0, 19_999], 3] = wanted[4, 3]
    pieces[2][6, 0] = wanted[29, 0]
    pieces[3][11] = wanted[7]
    paths = [written(tmp_path, f"{k}", piece) for k, piece in enumerate(pieces)]
    expected = [0, 19_999, 20_006, 20_007 + 11]
    assert (
        sharing(pieces, wanted).tolist() == expected
    )  # chance of any other: 35,007 * 30 * 40 / 2**32 = 1%, seed fixed
    assert sharing(paths, wanted).tolist() == expected
