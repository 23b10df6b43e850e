"""The sealed form of the test: unreadable without the key, the same every time, and refused by every reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_pipeline.data.examples import EXAMPLES, SEALED_MARK, SealedError, read_examples, seal, seal_key, unseal
from finetune_pipeline_tests.unit.data.rows import example, write_validated

KEY = seal_key(b"k" * 32)
ROWS = b"".join(b'{"id": %d, "text": "secret words"}\n' % i for i in range(500))


def test_rows_come_back_cannot_be_read_before_and_give_the_same_bytes_again() -> None:
    sealed = seal(ROWS, KEY)
    assert unseal(sealed, KEY) == ROWS
    assert b"secret" not in sealed and sealed.startswith(SEALED_MARK)
    assert sealed == seal(ROWS, KEY) != seal(ROWS, seal_key(b"j" * 32))


@pytest.mark.parametrize("fault", ["key", "byte", "cut", "plain", "tail"])
def test_damage_and_other_keys_are_told(fault: str) -> None:
    sealed, key = seal(ROWS, KEY), KEY
    if fault == "key":
        key = seal_key(b"other" * 7)
    sealed = {
        "byte": sealed[:100] + bytes([sealed[100] ^ 1]) + sealed[101:],
        "cut": sealed[:-5],
        "plain": ROWS,
        "tail": sealed + b"more",
    }.get(fault, sealed)
    with pytest.raises(SealedError, match="damaged"):
        unseal(sealed, key)


def test_whoever_reads_examples_is_told_it_is_sealed(tmp_path: Path) -> None:
    path = tmp_path / EXAMPLES
    write_validated(tmp_path, [example("some text", "yes")])
    assert len(read_examples(path)) == 1
    path.write_bytes(seal(path.read_bytes(), KEY))
    with pytest.raises(SealedError, match="Only test_predictions opens it"):
        read_examples(path)
