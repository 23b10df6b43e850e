"""Processes of `finetune run` for chaos.py, and digests of their artifacts that are comparable between two runs.

A run is a process in a session of its own, forked from one that has already imported the command, which saves the imports
of some hundred runs. The worker processes that use torch start as always.
"""

import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from finetune_pipeline.evaluation.failures.atlas import ShownRows
from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.report.evaluation_page import evaluation_page
from finetune_pipeline.report.page import page_html, page_markdown
from finetune_pipeline_tests.graph.disturbed import digests
from finetune_pipeline_tests.graph.project import Project

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["benchmarks.chaos_runs", "finetune_pipeline.definitions", "finetune_pipeline.cli.run"])

_MONEY = {"dollars", "dollars_between", "hours", "hours_between"}
_MEASUREMENTS = {"seconds", "cpu_seconds", "train_seconds", "peak_memory_mib", "planned", *_MONEY}
MEASURED = {
    "plan.json": {"available_mib", "sentence", *_MEASUREMENTS},
    "evaluation.json": {"measured", "time", *_MEASUREMENTS},
    "report.json": {"measured", "time", *_MEASUREMENTS},
}
"""Keys by file whose values are durations, memory in use, estimates made from these, or dates."""
_MEASUREMENT = re.compile(r"\d (s|min|h|MiB|GiB)\b")
_PAGES = ("report.html", "report.md")


class Run:
    """A running `finetune run`, with the part of the interface of subprocess.Popen that is used."""

    def __init__(self, project: Project, *arguments: str, **environment: str) -> None:
        values = {**project.environment(), **environment}
        log = str(project.root / "run.log")
        self._process = _FORKS.Process(target=_finetune, args=(["run", project.folder.name, *arguments], values, log))
        self._process.start()
        assert self._process.pid
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("finetune run", timeout or 0)
        return self._process.exitcode


def _finetune(arguments: list[str], environment: Mapping[str, str], log: str) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the parent process may ignore it
    os.environ.clear()
    os.environ.update(environment)
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    sys.argv = ["finetune", *arguments]
    from finetune_pipeline.cli.main import main

    main()


def contents(project: Project) -> dict[str, str]:
    """Digest of every file of every artifact by step, version and name, without measured values (:data:`MEASURED`).

    The report's pages show measured values in many places. They count as equal when each is, to the byte, what its own
    evaluation.json, rows.json and gates.json give when rendered again.
    """
    digest_by_name = digests(project)
    for name in digest_by_name:
        path = next((project.home / "artifacts").glob(f"*/{name}"))
        if path.name in MEASURED:
            text = json.dumps(_without(MEASURED[path.name], json.loads(path.read_text("utf-8"))), sort_keys=True)
            digest_by_name[name] = hashlib.sha256(text.encode()).hexdigest()
        elif path.name == "README.md":  # the model card
            lines = [line for line in path.read_text("utf-8").splitlines() if not _MEASUREMENT.search(line)]
            digest_by_name[name] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        elif path.name in _PAGES and (path.parent / "evaluation.json").exists():
            evaluation, gates = (
                json.loads((path.parent / f"{n}.json").read_text("utf-8")) for n in ("evaluation", "gates")
            )
            page = evaluation_page(
                EvaluationResult.model_validate(evaluation),
                [GateResult.from_dict(g) for g in gates],
                ShownRows.model_validate_json((path.parent / "rows.json").read_bytes()),
            )
            rendered = page_html(page) if path.name == "report.html" else page_markdown(page)
            same = path.read_text("utf-8") == rendered
            digest_by_name[name] = "as its evaluation" if same else f"not as its evaluation: {path}"
    return digest_by_name


def _without(keys: set[str], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(keys, part) for key, part in value.items() if key not in keys}
    return [_without(keys, part) for part in value] if isinstance(value, list) else value


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


def run_id_of(project: Project, run: Run) -> str:
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
