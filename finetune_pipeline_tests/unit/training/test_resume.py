"""Killed anywhere and started again, training ends with the same adapter, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.training import checkpoints
from finetune_pipeline_tests.unit.processes import wait_until
from finetune_pipeline_tests.unit.training.jobs import finish, job, start

CHANGES: dict[str, Any] = {"epochs": 14, "evals_per_epoch": 1, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    """(adapter's bytes, facts)"""
    place = tmp_path_factory.mktemp("undisturbed")
    code, errors = finish(start(job(inputs, place, **CHANGES), place))
    assert code == 0, errors
    return _result(place)


def _result(place: Path) -> tuple[bytes, dict[str, Any]]:
    facts = json.loads((place / "out" / "result.json").read_text())
    return (place / "out" / "adapter" / "adapter_model.safetensors").read_bytes(), facts


def _complete(place: Path) -> list[Path]:
    return sorted(
        (p.parent for p in (place / "work" / "checkpoints").glob(f"*/{checkpoints.MARK}")),
        key=lambda p: int(p.name.split("-")[1]),
    )


def _killed(inputs: Path, place: Path, number: signal.Signals, when: int) -> subprocess.Popen[str]:
    """Start training and send the signal once checkpoint number `when` is complete."""
    running = start(job(inputs, place, **CHANGES), place)
    wait_until(
        lambda: running.poll() is not None or any(int(p.name.split("-")[1]) >= when for p in _complete(place)), 90
    )
    assert running.poll() is None, "training ended before it could be killed"
    os.kill(running.pid, number)
    return running


def test_sigterm_then_a_corrupt_checkpoint(
    inputs: Path, undisturbed: tuple[bytes, dict[str, Any]], tmp_path: Path
) -> None:
    code, errors = finish(_killed(inputs, tmp_path, signal.SIGTERM, 15))
    assert code == 85 and "stopped by SIGTERM" in errors
    assert json.loads((tmp_path / "out" / "error.json").read_text())["kind"] == "stopped"
    last = _complete(tmp_path)[-1]
    weights = bytearray((last / "optimizer.pt").read_bytes())
    weights[len(weights) // 2] ^= 0xFF
    (last / "optimizer.pt").write_bytes(weights)
    code, errors = finish(start(job(inputs, tmp_path, **CHANGES), tmp_path))
    assert code == 0, errors
    assert f"{last.name} is not used: optimizer.pt is corrupt" in errors
    adapter, facts = _result(tmp_path)
    assert adapter == undisturbed[0] and facts == undisturbed[1]
    measured = json.loads((tmp_path / "out" / "measured.json").read_text())
    assert [s["name"] for s in measured["checkpoints_skipped"]] == [last.name]
