"""Processes are killed half way; the rerun ends as the undisturbed run did, to the bit."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from finetune_pipeline.training.checkpoints import MARK
from finetune_pipeline_tests.graph.disturbed import (
    digests,
    finish,
    fresh,
    grow_logs,
    kill_in,
    last_output,
    logged,
    start,
    whole,
)
from finetune_pipeline_tests.graph.project import Project
from finetune_pipeline_tests.tiny_model import make_tiny_model


def adapter_digest(project: Project) -> str:
    path = project.artifact("adapter") / "adapter" / "adapter_model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def trainer_of(parent: int) -> psutil.Process | None:
    """The child that trains, once it has written a checkpoint."""
    try:
        for child in psutil.Process(parent).children(recursive=True):
            if "finetune_pipeline.worker.entry" in " ".join(child.cmdline()):
                return child
    except psutil.Error:  # one of them ended while it was looked at
        return None
    return None


def wait_for_checkpoint(project: Project, started: subprocess.Popen[str]) -> psutil.Process:
    """Returns the trainer as soon as a complete checkpoint stands and training still goes on."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        assert started.poll() is None, "the run ended before it could be killed"
        found = list(
            (project.home / "artifacts" / "colours" / ".work" / "adapter").glob(f"*/checkpoints/checkpoint-*/{MARK}")
        )
        trainer = trainer_of(started.pid)
        if found and trainer:
            return trainer
        time.sleep(0.05)
    raise AssertionError("no checkpoint within five minutes")


@pytest.mark.parametrize("victim", ["trainer", "command line"])
def test_a_kill_in_training_is_told_and_taken_up_again(
    finished: tuple[Project, int, dict], tmp_path: Path, victim: str
) -> None:
    undisturbed, code, _ = finished
    project = Project(tmp_path, base=undisturbed.root / "base", cold=True)
    running = subprocess.Popen(
        project.command("run", "colours"),
        env=project.environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    trainer = wait_for_checkpoint(project, running)
    if victim == "trainer":
        trainer.send_signal(signal.SIGKILL)
        output, _ = running.communicate(timeout=120)
        assert running.returncode == 1
        assert "adapter failed" in output
        assert "SIGKILL" in output
        assert "goes on from there" in output
    else:
        os.kill(running.pid, signal.SIGKILL)
        running.communicate(timeout=60)
        gone, alive = psutil.wait_procs([trainer], timeout=20)
        assert alive == [], "the trainer outlived the process that started it"
    assert not list((project.home / "artifacts" / "colours" / "adapter").glob("*/artifact.json")), (
        "half an artifact is visible"
    )
    again, told = project.run()
    assert again == code, told
    assert adapter_digest(project) == adapter_digest(undisturbed)
    measured = json.loads((project.artifact("adapter") / "measured.json").read_text())
    assert measured["resumed_from"].startswith("checkpoint-")
    for step in ("splits", "adapter", "merged_model", "test_predictions"):
        assert project.artifact(step).name == undisturbed.artifact(step).name, "same inputs, same versions"


def test_kills_while_logs_grow_lose_and_double_nothing(tmp_path: Path) -> None:
    """A few of the kills of `benchmarks/chaos.py`: the data stage through the real command, with Dagster and MLflow."""
    base, data = make_tiny_model(tmp_path / "base"), ("--stage", "data")
    undisturbed = fresh(tmp_path / "undisturbed", base)
    assert finish(undisturbed, *data) == 0
    key = undisturbed.home / "artifacts" / "scrubbing.key"
    project, rng, killed = fresh(tmp_path / "killed", base, key, log_rows=10), random.Random(0), 0
    for rows, asset in ((30, "production_logs"), (60, "clean_examples")):
        run = start(project, *data)
        killed += bool(kill_in(project, run, asset, 0.3, rng, child=False))
        whole(project)
        grow_logs(project, rows)
    assert killed, "every run was quicker than its kill"
    assert finish(project, *data) == 0, last_output(project)
    assert whole(project) >= whole(undisturbed)
    assert digests(project, of_logs=False) == digests(undisturbed, of_logs=False)
    assert sorted(logged(project)) == sorted(f"answer-{i}" for i in range(60))
