"""A full disk and an MLflow that is away are told in a sentence; a fault of the program keeps its traceback."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from finetune_pipeline.cli import main as entry
from finetune_pipeline.cli.output import words_of


def file_on_a_full_disk(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        full.write("x")


def database_on_a_full_disk(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "history.db") as database:
        database.execute("PRAGMA max_page_count = 1")
        database.execute("CREATE TABLE events (told TEXT)")


def wrapped(tmp_path: Path) -> None:
    try:
        database_on_a_full_disk(tmp_path)
    except sqlite3.Error as error:
        raise RuntimeError("could not store the event") from error


@pytest.mark.parametrize("fault", [file_on_a_full_disk, database_on_a_full_disk, wrapped])
def test_a_full_disk_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: Callable[[Path], None]
) -> None:
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path))
    _ends(monkeypatch, lambda: fault(tmp_path))
    told = capsys.readouterr().err
    assert told.startswith("the disk is full: ") and "fix: make space" in told and "Traceback" not in told


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert words_of(PermissionError(13, "denied")) is None

    def fault() -> None:
        raise KeyError("adapter")

    @click.command()
    def command() -> None:
        fault()

    monkeypatch.setattr(entry, "cli", command)
    monkeypatch.setattr(sys, "argv", ["finetune"])
    with pytest.raises(KeyError):
        entry.main()


def _ends(monkeypatch: pytest.MonkeyPatch, fault: Callable[[], None]) -> None:
    @click.command()
    def command() -> None:
        fault()

    monkeypatch.setattr(entry, "cli", command)
    monkeypatch.setattr(sys, "argv", ["finetune"])
    with pytest.raises(SystemExit) as end:
        entry.main()
    assert end.value.code == 1
