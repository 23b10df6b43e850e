"""Killed anywhere and started again, training ends with the same adapter, to the bit."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from finetune_pipeline.training import checkpoints
from finetune_pipeline_tests.unit.processes import wait_until
from finetune_pipeline_tests.unit.training.jobs import finish, job, start

CHANGES: dict[str, Any] = {"epochs": 14, "evals_per_epoch": 1, "learning_rate": 1e-3}


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _complete(place: Path) -> list[Path]:
    return sorted((p.parent for p in (place / "work" / "checkpoints").glob(f"*/{checkpoints.MARK}")), key=_step)


def test_sigterm_then_a_corrupt_checkpoint(inputs: Path, tmp_path: Path) -> None:
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    code, errors = finish(start(job(inputs, undisturbed, **CHANGES), undisturbed))
    assert code == 0, errors
    running = start(job(inputs, stopped, **CHANGES), stopped)
    wait_until(lambda: running.poll() is not None or any(_step(p) >= 15 for p in _complete(stopped)), 90)
    assert running.poll() is None, "training ended before it could be stopped"
    running.send_signal(signal.SIGTERM)
    code, errors = finish(running)
    assert code == 85 and "stopped by SIGTERM" in errors
    assert json.loads((stopped / "out" / "error.json").read_text())["kind"] == "stopped"
    last = _complete(stopped)[-1]
    weights = bytearray((last / "optimizer.pt").read_bytes())
    weights[len(weights) // 2] ^= 0xFF
    (last / "optimizer.pt").write_bytes(weights)
    code, errors = finish(start(job(inputs, stopped, **CHANGES), stopped))
    assert code == 0, errors
    assert f"{last.name} is not used: optimizer.pt is corrupt" in errors
    for name in ("adapter/adapter_model.safetensors", "result.json"):
        assert (stopped / "out" / name).read_bytes() == (undisturbed / "out" / name).read_bytes()
    measured = json.loads((stopped / "out" / "measured.json").read_text())
    assert [s["name"] for s in measured["checkpoints_skipped"]] == [last.name]
