"""Runs of `finetune run` for `benchmarks/chaos.py`, and what of their files can be compared between two runs.

A run is a process of its own with a session of its own, forked from one that has imported the command already: that saves
the imports of some hundred runs, and nothing else. The children that work with torch start as always.
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
_TOOK = {"seconds", "cpu_seconds", "train_seconds", "peak_memory_mib", "planned", *_MONEY}
MEASURED = {
    "plan.json": {"available_mib", "sentence", *_TOOK},
    "evaluation.json": {"measured", "time", *_TOOK},
    "report.json": {"measured", "time", *_TOOK},
}
"""Keys whose values are seconds, memory in use, estimates that follow from them (a plan knows how long the trainings before
it took), or a date."""
_MEASURE = re.compile(r"\d (s|min|h|MiB|GiB)\b")
_PAGES = ("report.html", "report.md")


class Run:
    """A running `finetune run`, with the part of subprocess.Popen that is needed."""

    def __init__(self, project: Project, *arguments: str, **environment: str) -> None:
        values = {**project.environment(), **environment}
        log = str(project.root / "run.log")
        self._process = _FORKS.Process(target=_finetune, args=(["run", project.folder.name, *arguments], values, log))
        self._process.start()
        assert self._process.pid
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; minus the signal it died of; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has one. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("finetune run", timeout or 0)
        return self._process.exitcode


def _finetune(arguments: list[str], environment: Mapping[str, str], log: str) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started this may ignore it
    os.environ.clear()
    os.environ.update(environment)
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    sys.argv = ["finetune", *arguments]
    from finetune_pipeline.cli.main import main

    main()


def contents(project: Project) -> dict[str, str]:
    """Digest of every file of every artifact, by step, version and name, without what was measured (:data:`MEASURED`).

    The pages of the report show those figures all over: here they count as equal when each is, to the byte, what its own
    evaluation.json, rows.json and gates.json give when they are rendered again.
    """
    found = digests(project)
    for name in found:
        path = next((project.home / "artifacts").glob(f"*/{name}"))
        if path.name in MEASURED:
            text = json.dumps(_without(MEASURED[path.name], json.loads(path.read_text("utf-8"))), sort_keys=True)
            found[name] = hashlib.sha256(text.encode()).hexdigest()
        elif path.name == "README.md":  # the model card
            lines = [line for line in path.read_text("utf-8").splitlines() if not _MEASURE.search(line)]
            found[name] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
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
            found[name] = "as its evaluation" if same else f"not as its evaluation: {path}"
    return found


def _without(keys: set[str], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(keys, part) for key, part in value.items() if key not in keys}
    return [_without(keys, part) for part in value] if isinstance(value, list) else value


def left_open(project: Project) -> list[str]:
    """What no run that has ended may leave: records of runs that go on or are there twice, slots, locks, registered twice."""
    mlflow, history = project.home / "mlflow" / "mlflow.db", project.home / "dagster" / "history" / "history"
    tag = "(SELECT value FROM tags WHERE run_uuid = runs.run_uuid AND key = '{}')"
    which = ", ".join(map(tag.format, ("dagster.run_id", "dagster.kind", "dagster.asset", "finetune.version")))
    asked = {
        "MLflow runs that go on": (mlflow, "SELECT name FROM runs WHERE status = 'RUNNING'"),
        "MLflow runs that are there twice": (mlflow, f"SELECT name FROM runs GROUP BY {which} HAVING count(*) > 1"),
        "more than one version": (mlflow, "SELECT version FROM model_versions WHERE version > 1"),
        "Dagster runs that go on": (
            history / "runs.db",
            "SELECT run_id FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')",
        ),
        "slots": (
            history / "runs" / "index.db",
            "SELECT run_id, step_key FROM concurrency_slots WHERE run_id IS NOT NULL",
        ),
    }
    wrong = []
    for name, (file, query) in asked.items():
        with contextlib.closing(sqlite3.connect(file)) as database:
            rows = database.execute(query).fetchall()
        wrong += [f"{name}: {rows}"] if rows else []
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
                wrong.append(f"held: {path}")
    return wrong


def stage_of(asset: str) -> str:
    """The stage whose job makes an asset."""
    from finetune_pipeline.orchestration.assets import STAGES, stage_assets

    return next(stage for stage in STAGES if asset in stage_assets(stage))


def remove(project: Project, asset: str) -> None:
    """Take an asset's artifacts away, as if it had never been made."""
    for folder in (project.home / "artifacts").glob(f"*/{asset}"):
        shutil.rmtree(folder)


def made(project: Project, asset: str) -> bool:
    """Whether an artifact of this asset is visible."""
    return any((project.home / "artifacts").glob(f"*/{asset}/*/artifact.json"))
