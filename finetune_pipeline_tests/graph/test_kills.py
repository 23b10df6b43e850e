"""Processes are killed half way; the rerun ends as the undisturbed run did, to the bit."""

import hashlib
import json
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil

from finetune_pipeline.training.checkpoints import MARK
from finetune_pipeline_tests import warm_workers
from finetune_pipeline_tests.graph.disturbed import (
    digests,
    finish,
    fresh,
    grow_logs,
    heavy_child,
    kill_in,
    last_output,
    logged,
    start,
    wait_for,
    whole,
)
from finetune_pipeline_tests.graph.project import Finished, Project
from finetune_pipeline_tests.tiny_model import make_tiny_model


def adapter_digest(project: Project) -> str:
    path = project.artifact("adapter") / "adapter" / "adapter_model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wait_for_checkpoint(project: Project, started: subprocess.Popen[str]) -> psutil.Process:
    """Returns the trainer as soon as it has written a complete checkpoint and still trains."""
    since, work = time.time(), project.home / "artifacts" / "colours" / ".work" / "adapter"

    def look() -> psutil.Process | None:
        saved = any(p.stat().st_mtime > since for p in work.glob(f"*/checkpoints/checkpoint-*/{MARK}"))
        return heavy_child(started) if saved else None

    trainer = wait_for(started, look, 300)
    assert trainer, "the run ended before it could be killed"
    return trainer


def test_a_kill_in_training_is_told_and_taken_up_again(finished: Finished, tmp_path: Path) -> None:
    """The real command; its workers are warm."""
    undisturbed, _, _ = finished
    project = Project.continued(undisturbed, tmp_path, "training_plan", cold=True)
    running = start(project, "--stage", "training", **warm_workers.start())
    wait_for_checkpoint(project, running).send_signal(signal.SIGKILL)
    assert running.wait(120) == 1
    output = last_output(project)
    assert "adapter failed" in output and "SIGKILL" in output and "goes on from there" in output
    assert not [*project.home.glob("artifacts/colours/adapter/*/artifact.json")], "half an artifact is visible"
    project.cold = False
    code, result = project.run("--stage", "training")
    assert code == 0, result
    assert adapter_digest(project) == adapter_digest(undisturbed)
    measured = json.loads((project.artifact("adapter") / "measured.json").read_text())
    assert measured["resumed_from"].startswith("checkpoint-")
    for step in ("splits", "adapter", "merged_model"):
        assert project.artifact(step).name == undisturbed.artifact(step).name, "same inputs, same versions"


def test_kills_while_logs_grow_lose_and_double_nothing(tmp_path: Path) -> None:
    """One of the kills of `benchmarks/chaos.py`: the data stage through the real command, with Dagster and MLflow."""
    base, data = make_tiny_model(tmp_path / "base"), ("--stage", "data")
    undisturbed = fresh(tmp_path / "undisturbed", base)
    undisturbed.cold = False
    assert finish(undisturbed, *data) == 0
    key = undisturbed.home / "artifacts" / "scrubbing.key"
    project, killed = fresh(tmp_path / "killed", base, key, log_rows=10), ""
    for rows, asset in ((30, "production_logs"), (60, "clean_examples")):
        if not killed:  # the first may have been quicker than its kill
            killed = kill_in(project, start(project, *data), asset, 0.3, random.Random(0), child=False)
            whole(project)
        grow_logs(project, rows)
    assert killed, "every run was quicker than its kill"
    project.cold = False
    assert finish(project, *data) == 0, last_output(project)
    assert whole(project) >= whole(undisturbed)
    assert digests(project, of_logs=False) == digests(undisturbed, of_logs=False)
    assert sorted(logged(project)) == sorted(f"answer-{i}" for i in range(60))
    assert not [*(project.home / "progress").iterdir()], "progress of killed runs is left"
