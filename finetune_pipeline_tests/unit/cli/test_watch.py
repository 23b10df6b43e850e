"""What the terminal says while a run goes on."""

import json
import threading
import time
from pathlib import Path

import pytest

from finetune_pipeline.cli import watch
from finetune_pipeline.cli.watch import Watcher
from finetune_pipeline.progress import VARIABLE, tell


def test_stages_are_numbered_and_lines_are_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lines = tmp_path / "progress.jsonl", []
    monkeypatch.setenv(VARIABLE, str(path))
    with Watcher(path, total=2, say=lines.append):
        tell("splits", "begins")
        tell("splits", "done", sentence="all well")
        time.sleep(0.5)
        tell("adapter", "unchanged")
        tell("adapter", message="reading", step=1, of=2, eval_loss=0.25)
        with path.open("a") as half:
            half.write(json.dumps({"stage": "adapter"})[:5])
    assert lines == [
        "[ 1/2] splits", "        all well (0 s)", "[ 2/2] adapter (made already)",
        "        reading, 1 of 2, eval loss 0.250",
    ]  # fmt: skip


def test_a_silent_stage_says_that_it_is_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lines = tmp_path / "progress.jsonl", []
    monkeypatch.setenv(VARIABLE, str(path))
    monkeypatch.setattr(watch, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(watch, "SILENT_SECONDS", 0.0)
    with Watcher(path, total=1, say=lines.append):
        tell("adapter", "begins")
        while not any("adapter: working" in line for line in lines):
            time.sleep(0.05)
        tell("adapter", "done", sentence="all well")
        while not any("all well" in line for line in lines):
            time.sleep(0.05)
        ended = len(lines)
    assert not any("working" in line for line in lines[ended:])


def test_a_question_that_fails_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lines, questions = tmp_path / "progress.jsonl", [], []
    monkeypatch.setenv(VARIABLE, str(path))
    monkeypatch.setattr(watch, "QUIET_SECONDS", 0.0)

    def fails() -> str | None:
        questions.append(1)
        raise OSError("database is locked")

    with Watcher(path, total=1, say=lines.append, waits_for=fails):
        while len(questions) < 3:
            time.sleep(0.05)
        tell("adapter", "begins")
    assert lines == ["        what the run waits for is unknown (OSError: database is locked)", "[ 1/1] adapter"]


def test_lines_that_nobody_reads_end_without_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, questions, tracebacks = tmp_path / "progress.jsonl", [], []
    monkeypatch.setenv(VARIABLE, str(path))
    monkeypatch.setattr(threading, "excepthook", tracebacks.append)

    def closed(line: str) -> None:
        questions.append(line)
        raise BrokenPipeError

    with Watcher(path, total=1, say=closed):
        tell("adapter", "begins")
    assert len(questions) == 1 and tracebacks == []
