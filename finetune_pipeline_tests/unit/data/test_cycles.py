"""The search for cyclic garbage is put off, and taken up again whatever happens."""

from __future__ import annotations

import gc

import pytest
from finetune_pipeline.data.cycles import cycles_left_alone


def test_it_is_off_inside_and_on_again_after_an_error() -> None:
    assert gc.isenabled()

    @cycles_left_alone()
    def fails() -> None:
        assert not gc.isenabled()
        raise RuntimeError("planted")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="planted"):
            fails()
        assert gc.isenabled()


def test_who_has_turned_it_off_finds_it_off() -> None:
    gc.disable()
    try:
        with cycles_left_alone():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
