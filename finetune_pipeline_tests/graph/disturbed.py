"""Helpers to kill runs at random moments, and to check the result: complete artifacts, no lost rows, identical bytes."""

import contextlib
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
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
"""Files with durations or process details, which differ between runs."""
LOG_ROWS, ROTATED_EVERY = 60, 20
OF_LOGS = ("production_logs", "drift_report", "retraining_decision")
"""Steps whose versions depend on when each log row was taken in, so they differ if the log grew between runs."""


class Running(Protocol):
    """A running process, such as a subprocess.Popen."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


def start(project: Project, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start ``finetune run`` in a new session, with its output in run.log beside the home."""
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
    """The end of run.log."""
    path = project.root / "run.log"
    return path.read_text("utf-8", "replace")[-3000:] if path.exists() else ""


def run_in_progress(project: Project, run: Running) -> list[str]:
    """Assets that the run has begun and not finished, from its progress file."""
    try:
        (path,) = (project.home / "progress").glob(f"{project.folder.name}-{run.pid}-*.jsonl")
        lines = path.read_bytes().split(b"\n")[:-1]
    except (FileNotFoundError, ValueError):
        return []
    in_progress: list[str] = []
    for row in map(json.loads, lines):
        if row["message"] == "begins":
            in_progress.append(row["stage"])
        elif row["message"] == "done" and row["stage"] in in_progress:
            in_progress.remove(row["stage"])
    return in_progress


def wait_for(run: Running, condition: Callable[[], Any], seconds: float = 900) -> Any:
    """The first truthy result of `condition`; None if the run ends first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        if run.poll() is not None:
            return None
        time.sleep(0.002)
    raise AssertionError(f"not within {seconds:g} s")


def heavy_child(run: Running) -> psutil.Process | None:
    """The run's worker process, if one is running."""
    try:
        for child in psutil.Process(run.pid).children(recursive=True):
            if {WORKER_MODULE, warm_workers.__name__} & set(child.cmdline()):
                return child
    except psutil.Error:  # a process ended meanwhile
        return None
    return None


def kill_run(run: Running) -> None:
    """Send SIGKILL to the command line. Asserts that no child process outlives it."""
    stop_run(run, signal.SIGKILL)


def stop_run(run: Running, number: signal.Signals, *, group: bool = False) -> float:
    """Send a signal to the command line, or to its process group. Asserts that no child process outlives it. Returns the
    seconds until it ended."""
    children, sent_at = psutil.Process(run.pid).children(recursive=True), time.monotonic()
    while group and os.getpgid(run.pid) != run.pid:  # it was started just now
        time.sleep(0.001)
    (os.killpg if group else os.kill)(run.pid, number)
    run.wait(300)
    seconds = time.monotonic() - sent_at
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, f"outlived the command line: {alive}"
    return seconds


def kill_in(project: Project, run: Running, asset: str, seconds: float, rng: random.Random, child: bool) -> str:
    """Kill the run at a random moment up to `seconds` after `asset` began: the worker if `child` and one is running, else the
    command line. Returns the assets in progress and the killed process; "" if the run ended before."""
    if not wait_for(run, lambda: asset in run_in_progress(project, run)):
        return ""
    kill_at = time.monotonic() + rng.uniform(0, seconds)
    while time.monotonic() < kill_at and run.poll() is None:
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
    """Run to the end. Returns the exit code."""
    return start(project, *arguments, **environment).wait(1800)


def check_artifacts(project: Project) -> int:
    """Assert that every published artifact matches its manifest. Returns the number of artifacts."""
    manifests = list((project.home / "artifacts").glob("*/*/*/artifact.json"))
    for manifest in manifests:
        for name, file in json.loads(manifest.read_text())["files"].items():
            path = manifest.parent / name
            assert hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"], f"{path} differs from its manifest"
    return len(manifests)


def digests(project: Project, *, of_logs: bool = True) -> dict[str, str]:
    """Digests of all artifact files except :data:`TIMES`, by step, version and name. of_logs: Include :data:`OF_LOGS`."""
    digest_by_name = {}
    for manifest in (project.home / "artifacts").glob("*/*/*/artifact.json"):
        step, version = manifest.parts[-3:-1]
        if step in OF_LOGS and not of_logs:
            continue
        for path in manifest.parent.rglob("*"):
            if path.is_file() and path.name not in (*TIMES, "artifact.json"):
                name = f"{step}/{version}/{path.relative_to(manifest.parent)}"
                digest_by_name[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digest_by_name


def grow_logs(project: Project, rows: int) -> None:
    """Append to the production log until it has `rows` rows, rotating it by renaming as a server would."""
    folder = project.folder / "logs"
    folder.mkdir(exist_ok=True)
    present = sum(len(path.read_text().splitlines()) for path in folder.glob("*.jsonl*"))
    for i in range(present, rows):
        if i and i % ROTATED_EVERY == 0:
            (folder / "live.jsonl").rename(folder / f"live-{i // ROTATED_EVERY}.jsonl")
        cue, label = ("fire", "red") if i % 2 else ("water", "blue")
        row = {"id": f"answer-{i}", "timestamp": f"2026-05-01T10:{i % 60:02d}:00Z", "model_version": "1"}
        row |= {"input": f"{cue} river stone {i}", "output": label}
        with (folder / "live.jsonl").open("a") as handle:
            handle.write(json.dumps(row) + "\n")


def logged_ids(project: Project) -> list[str]:
    """Row ids in the newest production_logs artifact."""
    lines = (project.artifact("production_logs") / "rows.jsonl").read_text().splitlines()
    return [json.loads(line)["id"] for line in lines]


def new_project(root: Path, base: Path, key: Path | None = None, log_rows: int = LOG_ROWS) -> Project:
    """A project with production logs and no runs. key: Scrubbing key of the run to compare with."""
    shutil.rmtree(root, ignore_errors=True)
    project = Project(root, base=base, cold=True)
    copy_database(project.home / "mlflow")
    grow_logs(project, log_rows)
    if key is not None:
        target = project.home / "artifacts" / "scrubbing.key"
        target.parent.mkdir(parents=True)
        shutil.copy2(key, target)
    return project


def problems_left(project: Project) -> list[str]:
    """What an ended run must not leave: records of runs that go on or are doubled, slots, locks, doubled model versions."""
    mlflow, history = project.home / "mlflow" / "mlflow.db", project.home / "dagster" / "history" / "history"
    tag = "(SELECT value FROM tags WHERE run_uuid = runs.run_uuid AND key = '{}')"
    tags = ", ".join(map(tag.format, ("dagster.run_id", "dagster.kind", "dagster.asset", "finetune.version")))
    queries = {
        "MLflow runs that go on": (mlflow, "SELECT name FROM runs WHERE status = 'RUNNING'"),
        "doubled MLflow runs": (mlflow, f"SELECT name FROM runs GROUP BY {tags} HAVING count(*) > 1"),
        "more than one version": (mlflow, "SELECT version FROM model_versions WHERE version > 1"),
        "Dagster runs that go on": (
            history / "runs.db",
            "SELECT run_id FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')",
        ),
        "slots": (
            history / "runs" / "index.db",
            "SELECT run_id, step_key FROM concurrency_slots WHERE run_id IS NOT NULL",
        ),
        "places in a pool": (history / "runs" / "index.db", "SELECT run_id, step_key FROM pending_steps"),
    }
    problems = []
    for name, (file, query) in queries.items():
        with contextlib.closing(sqlite3.connect(file)) as database:
            rows = database.execute(query).fetchall()
        problems += [f"{name}: {rows}"] if rows else []
    locks = [
        *(project.home / "artifacts").glob("*/.locks/*"),
        *(project.home / "locks").glob("*"),
        mlflow.parent / ".runs.lock",
    ]
    for path in locks:
        with path.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                problems.append(f"lock held: {path}")
    return problems


def run_id_of(project: Project, run: Running) -> str:
    """The id of a run in Dagster; "" if it has not begun yet."""
    names = [path.stem for path in (project.home / "progress").glob(f"*-{run.pid}-*.jsonl")]
    return names[0].partition(f"-{run.pid}-")[2] if names else ""


def left_in_pool(project: Project, run_id: str) -> list[str]:
    """The rows of a run in Dagster's pools: `claimed` for a slot that it has, `assigned` for the next one, `waiting` for none."""
    index = project.home / "dagster" / "history" / "history" / "runs" / "index.db"
    with contextlib.closing(sqlite3.connect(index, timeout=60)) as database:
        claimed = database.execute("SELECT step_key FROM concurrency_slots WHERE run_id = ?", (run_id,)).fetchall()
        rows = database.execute("SELECT step_key, assigned_timestamp FROM pending_steps WHERE run_id = ?", (run_id,))
        return [
            "claimed" if (step,) in claimed else "assigned" if assigned else "waiting"
            for step, assigned in rows.fetchall()
        ]


def stage_of(asset: str) -> str:
    """The stage whose job makes an asset."""
    from finetune_pipeline.orchestration.assets import STAGES, stage_assets

    return next(stage for stage in STAGES if asset in stage_assets(stage))


def remove(project: Project, asset: str) -> None:
    """Delete all artifacts of an asset."""
    for folder in (project.home / "artifacts").glob(f"*/{asset}"):
        shutil.rmtree(folder)


def has_artifact(project: Project, asset: str) -> bool:
    return any((project.home / "artifacts").glob(f"*/{asset}/*/artifact.json"))
