"""Killed runs: the rerun's artifacts equal those of an undisturbed run, byte for byte."""

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
    check_artifacts,
    digests,
    finish,
    grow_logs,
    heavy_child,
    kill_in,
    last_output,
    logged_ids,
    new_project,
    start,
    wait_for,
)
from finetune_pipeline_tests.graph.project import Finished, Project
from finetune_pipeline_tests.tiny_model import make_tiny_model


def adapter_digest(project: Project) -> str:
    path = project.artifact("adapter") / "adapter" / "adapter_model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wait_for_checkpoint(project: Project, run: subprocess.Popen[str]) -> psutil.Process:
    """Wait until the run has saved a complete checkpoint. Returns its training process."""
    since, work = time.time(), project.home / "artifacts" / "colours" / ".work" / "adapter"

    def training_process() -> psutil.Process | None:
        saved = any(p.stat().st_mtime > since for p in work.glob(f"*/checkpoints/checkpoint-*/{MARK}"))
        return heavy_child(run) if saved else None

    trainer = wait_for(run, training_process, 300)
    assert trainer, "the run ended before it could be killed"
    return trainer


def test_a_kill_in_training_is_told_and_taken_up_again(finished: Finished, tmp_path: Path) -> None:
    """Uses the real command with warm workers."""
    undisturbed = finished.project
    project = Project.continued(undisturbed, tmp_path, "training_plan", cold=True)
    run = start(project, "--stage", "training", **warm_workers.start())
    wait_for_checkpoint(project, run).send_signal(signal.SIGKILL)
    assert run.wait(120) == 1
    output = last_output(project)
    assert "adapter failed" in output and "SIGKILL" in output and "continues from there" in output
    assert not [*project.home.glob("artifacts/colours/adapter/*/artifact.json")], "a partial artifact was published"
    project.cold = False
    code, result = project.run("--stage", "training")
    assert code == 0, result
    assert adapter_digest(project) == adapter_digest(undisturbed)
    measured = json.loads((project.artifact("adapter") / "measured.json").read_text())
    assert measured["resumed_from"].startswith("checkpoint-")
    for step in ("splits", "adapter", "merged_model"):
        assert project.artifact(step).name == undisturbed.artifact(step).name, "same inputs, same versions"


def test_kills_while_logs_grow_lose_and_double_nothing(tmp_path: Path) -> None:
    """One of the kills in `benchmarks/chaos.py`: the data stage through the real command (with warm workers)."""
    base, data = make_tiny_model(tmp_path / "base"), ("--stage", "data")
    undisturbed = new_project(tmp_path / "undisturbed", base)
    undisturbed.cold = False
    assert finish(undisturbed, *data) == 0
    key = undisturbed.home / "artifacts" / "scrubbing.key"
    project, killed = new_project(tmp_path / "killed", base, key, log_rows=10), ""
    for rows, asset in ((30, "production_logs"), (60, "clean_examples")):
        if not killed:  # a run may end before its kill
            run = start(project, *data, **warm_workers.start())
            killed = kill_in(project, run, asset, 0.3, random.Random(0), child=False)
            check_artifacts(project)
        grow_logs(project, rows)
    assert killed, "every run ended before its kill"
    project.cold = False
    assert finish(project, *data) == 0, last_output(project)
    assert check_artifacts(project) >= check_artifacts(undisturbed)
    assert digests(project, of_logs=False) == digests(undisturbed, of_logs=False)
    assert sorted(logged_ids(project)) == sorted(f"answer-{i}" for i in range(60))
    assert not [*(project.home / "progress").iterdir()], "progress files of killed runs remain"
