"""A training that was stopped goes on from the last checkpoint that is sound; that it ends with the same bits: see
test_resume_methods.py."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.training.checkpoints import MARK, find_resumable, mark_complete
from finetune_pipeline_tests.unit.processes import wait_until
from finetune_pipeline_tests.unit.training.jobs import finish, job, start

CHANGES: dict[str, Any] = {"epochs": 14, "evals_per_epoch": 1, "learning_rate": 1e-3}


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _complete(place: Path) -> list[Path]:
    return sorted((p.parent for p in (place / "work" / "checkpoints").glob(f"*/{MARK}")), key=_step)


def test_sigterm_then_a_corrupt_checkpoint(inputs: Path, tmp_path: Path) -> None:
    running = start(job(inputs, tmp_path, **CHANGES), tmp_path)
    wait_until(lambda: running.poll() is not None or len(_complete(tmp_path)) > 1, 90)
    assert running.poll() is None, "training ended before it could be stopped"
    running.send_signal(signal.SIGTERM)
    code, errors = finish(running)
    assert code == 85 and "stopped by SIGTERM" in errors
    assert json.loads((tmp_path / "out" / "error.json").read_text())["kind"] == "stopped"
    *_, before, last = _complete(tmp_path)
    weights = bytearray((last / "optimizer.pt").read_bytes())
    weights[len(weights) // 2] ^= 0xFF
    (last / "optimizer.pt").write_bytes(weights)
    code, errors = finish(start(job(inputs, tmp_path, **CHANGES), tmp_path))
    assert code == 0, errors
    assert f"{last.name} is not used: optimizer.pt is corrupt" in errors
    measured = json.loads((tmp_path / "out" / "measured.json").read_text())
    assert [s["name"] for s in measured["checkpoints_skipped"]] == [last.name]
    assert measured["resumed_from"] == before.name


# --- which checkpoint a run goes on from


def checkpoint(root: Path, step: int, best: int, job: str = "job") -> Path:
    folder = root / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights %d" % step)
    (folder / "trainer_state.json").write_text("{}")
    mark_complete(folder, job, f"checkpoint-{best}")
    return folder


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda bad: (bad / MARK).unlink(), "half-written"),
        (lambda bad: (bad / MARK).write_text('{"job": "jo'), "unreadable"),
        (lambda bad: (bad / "adapter_model.safetensors").write_bytes(b"Weights 6"), "corrupt"),
        (lambda bad: (bad / "trainer_state.json").unlink(), "missing"),
        (lambda bad: mark_complete(bad, "other", "checkpoint-3"), "other data"),
    ],
)
def test_an_unusable_one_is_named_removed_and_the_one_before_taken(tmp_path, spoil, reason) -> None:
    before, bad = checkpoint(tmp_path, 3, 3), checkpoint(tmp_path, 6, 6)
    after = checkpoint(tmp_path, 9, 6)  # it is no use without the best one before it
    spoil(bad)
    resume = find_resumable(tmp_path, "job")
    assert (resume.folder, resume.step, resume.best, resume.finished) == (before, 3, before, False)
    assert [s["name"] for s in resume.skipped] == ["checkpoint-9", "checkpoint-6"]
    assert "checkpoint-6" in resume.skipped[0]["reason"] and reason in resume.skipped[1]["reason"]
    assert not bad.exists() and not after.exists() and before.exists()
