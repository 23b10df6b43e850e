from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from finetune_pipeline.data.scrub import fingerprint, load_key
from finetune_pipeline.findings import FindingsError

KEY = bytes(range(32))


def test_it_depends_on_key_kind_and_value_and_on_no_spelling() -> None:
    one = fingerprint(KEY, "phone", "+44 20 7946 0018")
    assert one == fingerprint(KEY, "phone", "0044 (20) 7946-0018") == fingerprint(KEY, "phone", "+44 (0)20 7946 0018")
    assert one == fingerprint(KEY, "phone", "+４４\u202f20 7946\u200b 0018")
    assert len({one, fingerprint(KEY[::-1], "phone", "+442079460018"), fingerprint(KEY, "card", "+442079460018")}) == 3
    assert fingerprint(KEY, "secret", "aB") != fingerprint(KEY, "secret", "Ab")
    assert fingerprint(KEY, "name", "\ud800") != one  # half a surrogate pair is a value like any other


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "scrubbing.key"
    key = load_key(path)
    assert len(key) == 32 and path.read_bytes() == key == load_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["scrubbing.key"]
    assert load_key(tmp_path / "another.key") != key


def _load(path: str) -> bytes:
    return load_key(Path(path))


def test_processes_that_start_together_get_one_key(tmp_path: Path) -> None:
    # started anew, not forked: a copy of a process with threads may wait for a lock for ever
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        for i in range(4):
            path = str(tmp_path / f"{i}.key")
            assert len(set(pool.map(_load, [path] * 12, chunksize=1))) == 1
    assert len(os.listdir(tmp_path)) == 4


@pytest.mark.parametrize(("content", "mode", "said"), [(b"short", 0o600, "restore the key"), (KEY, 0o644, "chmod 600")])
def test_what_is_no_key_or_open_to_others_is_refused_and_left_alone(
    tmp_path: Path, content: bytes, mode: int, said: str
) -> None:
    path = tmp_path / "scrubbing.key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(FindingsError, match=said) as error:
        load_key(path)
    assert error.value.findings[0].place == str(path) and path.read_bytes() == content
