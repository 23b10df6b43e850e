"""A project that is disturbed, and what must hold whatever happened to it: nothing half made, nothing lost, same bytes."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import psutil

from finetune_pipeline.settings import WORKER_MODULE
from finetune_pipeline_tests import warm_workers
from finetune_pipeline_tests.graph.project import Project
from finetune_pipeline_tests.shared import copy_database

TIMES = ("measured.json", "job.json")
"""Files that tell how long something took, or how a process was started: no two runs have them alike."""
LOG_ROWS, ROTATED_EVERY = 60, 20
OF_LOGS = ("production_logs", "drift_report", "retraining_decision")
"""Steps whose versions follow from when which row was taken in, and so differ where the log grew between runs."""


class Running(Protocol):
    """What is needed of a process: subprocess.Popen has it."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


def start(project: Project, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """``finetune run`` in a session of its own; its words go to run.log beside the home."""
    with (project.root / "run.log").open("a") as log:
        return subprocess.Popen(
            project.command("run", project.folder.name, *arguments),
            env={**project.environment(), **environment},
            text=True,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def last_output(project: Project) -> str:
    """The end of what the last runs said."""
    path = project.root / "run.log"
    return path.read_text("utf-8", "replace")[-3000:] if path.exists() else ""


def run_in_progress(project: Project, run: Running) -> list[str]:
    """Assets that the run has begun and not ended, by its progress file."""
    try:
        (path,) = (project.home / "progress").glob(f"{project.folder.name}-{run.pid}-*.jsonl")
        lines = path.read_bytes().split(b"\n")[:-1]
    except (FileNotFoundError, ValueError):
        return []
    begun: list[str] = []
    for row in map(json.loads, lines):
        if row["message"] == "begins":
            begun.append(row["stage"])
        elif row["message"] == "done" and row["stage"] in begun:
            begun.remove(row["stage"])
    return begun


def wait_for(run: Running, condition: Callable[[], Any], seconds: float = 900) -> Any:
    """What `condition` gives once it gives something; None when the run ended first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        if run.poll() is not None:
            return None
        time.sleep(0.002)
    raise AssertionError(f"not within {seconds:g} s")


def heavy_child(run: Running) -> psutil.Process | None:
    """The process that works with torch for this run, if there is one now."""
    try:
        for child in psutil.Process(run.pid).children(recursive=True):
            if {WORKER_MODULE, warm_workers.__name__} & set(child.cmdline()):
                return child
    except psutil.Error:  # one of them ended while it was looked at
        return None
    return None


def kill_run(run: Running) -> None:
    """SIGKILL for the command line. Asserts that nothing it started outlives it."""
    stop_run(run, signal.SIGKILL)


def stop_run(run: Running, number: signal.Signals, *, group: bool = False) -> float:
    """A signal for the command line, or for its whole group. Asserts that nothing it started outlives it. Returns how many
    seconds it lived on."""
    children, began = psutil.Process(run.pid).children(recursive=True), time.monotonic()
    (os.killpg if group else os.kill)(run.pid, number)
    run.wait(300)
    took = time.monotonic() - began
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, f"outlived the process that started them: {alive}"
    return took


def kill_in(project: Project, run: Running, asset: str, seconds: float, rng: random.Random, child: bool) -> str:
    """Kill the run a random moment of up to `seconds` after `asset` began: its child that works with torch if `child` and
    there is one, else the command line. Returns the asset that was being made and the victim; "" if nothing was killed."""
    if not wait_for(run, lambda: asset in run_in_progress(project, run)):
        return ""
    end = time.monotonic() + rng.uniform(0, seconds)
    while time.monotonic() < end and run.poll() is None:
        time.sleep(0.002)
    where = "+".join(run_in_progress(project, run)) or "between two"
    if run.poll() is not None:
        return ""
    victim = heavy_child(run) if child else None
    if victim is None:
        kill_run(run)
        return f"{where} (command line)"
    victim.send_signal(signal.SIGKILL)
    assert run.wait(300) == 1, last_output(project)
    return f"{where} (its child)"


def finish(project: Project, *arguments: str, **environment: str) -> int:
    """Run until it ends by itself. Returns the exit code."""
    return start(project, *arguments, **environment).wait(1800)


def whole(project: Project) -> int:
    """Check every artifact that is visible against its manifest. Returns how many there are."""
    count = 0
    for manifest in (project.home / "artifacts").glob("*/*/*/artifact.json"):
        for name, file in json.loads(manifest.read_text())["files"].items():
            path = manifest.parent / name
            assert hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"], f"{path} is not what was made"
        count += 1
    return count


def digests(project: Project, *, of_logs: bool = True) -> dict[str, str]:
    """Digest of every file of every artifact but those of times, by step, version and name; `of_logs`: :data:`OF_LOGS` too."""
    found = {}
    for manifest in (project.home / "artifacts").glob("*/*/*/artifact.json"):
        step, version = manifest.parts[-3:-1]
        if step in OF_LOGS and not of_logs:
            continue
        for path in manifest.parent.rglob("*"):
            if path.is_file() and path.name not in (*TIMES, "artifact.json"):
                name = f"{step}/{version}/{path.relative_to(manifest.parent)}"
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def grow_logs(project: Project, rows: int) -> None:
    """Bring the production log to its first `rows` rows, as a server would: appended, and rotated by renaming."""
    folder = project.folder / "logs"
    folder.mkdir(exist_ok=True)
    there = sum(len(p.read_text().splitlines()) for p in folder.glob("*.jsonl*"))
    for i in range(there, rows):
        if i and i % ROTATED_EVERY == 0:
            (folder / "live.jsonl").rename(folder / f"live-{i // ROTATED_EVERY}.jsonl")
        cue, label = ("fire", "red") if i % 2 else ("water", "blue")
        row = {"id": f"answer-{i}", "timestamp": f"2026-05-01T10:{i % 60:02d}:00Z", "model_version": "1"}
        row |= {"input": f"{cue} river stone {i}", "output": label}
        with (folder / "live.jsonl").open("a") as handle:
            handle.write(json.dumps(row) + "\n")


def logged(project: Project) -> list[str]:
    """Ids of the log rows the newest production_logs artifact holds."""
    lines = (project.artifact("production_logs") / "rows.jsonl").read_text().splitlines()
    return [json.loads(line)["id"] for line in lines]


def fresh(root: Path, base: Path, key: Path | None = None, log_rows: int = LOG_ROWS) -> Project:
    """A project with production logs where nothing was run; `key`: the scrubbing key of the run it is compared with."""
    shutil.rmtree(root, ignore_errors=True)
    project = Project(root, base=base, cold=True)
    copy_database(project.home / "mlflow")
    grow_logs(project, log_rows)
    if key is not None:
        target = project.home / "artifacts" / "scrubbing.key"
        target.parent.mkdir(parents=True)
        shutil.copy2(key, target)
    return project
