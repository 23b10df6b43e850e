"""Which checkpoint a run goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_pipeline.training.checkpoints import MARK, find_resumable, mark_complete


def _checkpoint(root: Path, step: int, best: int | None = None, job: str = "job", finished: bool = False) -> Path:
    folder = root / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights %d" % step)
    (folder / "trainer_state.json").write_text("{}")
    mark_complete(folder, job, f"checkpoint-{best}" if best else None, finished)
    return folder


def test_the_last_complete_one(tmp_path: Path) -> None:
    _checkpoint(tmp_path, 9, 9)
    last = _checkpoint(tmp_path, 12, 9, finished=True)
    found = find_resumable(tmp_path, "job")
    assert (found.folder, found.step, found.best, found.finished) == (last, 12, tmp_path / "checkpoint-9", True)
    assert found.skipped == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("half", "half-written"),
        ("mark", "unreadable"),
        ("bytes", "corrupt"),
        ("gone", "missing"),
        ("job", "another|other data"),
    ],
)
def test_an_unusable_one_is_named_removed_and_the_one_before_taken(tmp_path: Path, fault: str, words: str) -> None:
    import re

    before = _checkpoint(tmp_path, 3, 3)
    bad = _checkpoint(tmp_path, 6, 3, job="other" if fault == "job" else "job")
    match fault:
        case "half":
            (bad / MARK).unlink()
        case "mark":
            (bad / MARK).write_text('{"job": "jo')
        case "bytes":
            (bad / "adapter_model.safetensors").write_bytes(b"Weights 6")
        case "gone":
            (bad / "trainer_state.json").unlink()
    found = find_resumable(tmp_path, "job")
    assert found.folder == before
    assert [s["name"] for s in found.skipped] == ["checkpoint-6"] and re.search(words, found.skipped[0]["reason"])
    assert not bad.exists() and before.exists()


def test_one_whose_best_is_unusable_is_passed_over(tmp_path: Path) -> None:
    first = _checkpoint(tmp_path, 3, 3)
    best = _checkpoint(tmp_path, 6, 6)
    _checkpoint(tmp_path, 9, 6)
    (best / "adapter_model.safetensors").write_bytes(b"")
    found = find_resumable(tmp_path, "job")
    assert found.folder == first
    assert [s["name"] for s in found.skipped] == ["checkpoint-9", "checkpoint-6"]
    assert "checkpoint-6" in found.skipped[0]["reason"]
