"""``finetune list``: every task with its champion, score, last run and drift."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from textwrap import indent

import click

from finetune_pipeline.cli.output import DONE, NO_TASK, as_json, tell
from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.store import MANIFEST, Artifact, ArtifactStore
from finetune_pipeline.evaluation.metrics import metric_title, score_text
from finetune_pipeline.findings import Finding, as_rows, errors
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.production.drift import DriftReport
from finetune_pipeline.production.released import Released
from finetune_pipeline.production.rollout import Rollout
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import check_task, find_tasks
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.steps.earlier_runs import RECORD, release_of
from finetune_pipeline.tracking import registry, rollouts
from finetune_pipeline.tracking.tracking import Tracking

SHOWN_PROBLEMS = 3


@dataclass(frozen=True)
class TaskRow:
    """A task's state.

    Attributes:
        state: `BROKEN`, `new` (no run was finished), `champion`, or `none` (nothing was good enough to ship).
        champion: The version that serves, and its kind.
        score: In the deciding metric, on the test that it was accepted by.
        last_run: When the newest candidate was judged (ISO 8601), and what came of it.
        drift: What the newest drift report found.
    """

    state: str
    champion: int | None = None
    kind: str | None = None
    score: float | None = None
    score_words: str = ""
    last_run: str | None = None
    result: str = ""
    drift: str = ""
    problems: list[Finding] = field(default_factory=list)

    @property
    def cells(self) -> tuple[str, ...]:
        """The columns after the name."""
        champion = f"version {self.champion}, {self.kind}" if self.champion else "–"
        run = f"{self.last_run[:16].replace('T', ' ')} {self.result}" if self.last_run else "–"
        return self.state, champion, self.score_words or "–", run, self.drift or "–"


@click.command("list")
@as_json
def list_() -> int:
    """List all tasks: state, champion, score, last run and drift, and the errors of broken ones."""
    return print_tasks()


def print_tasks() -> int:
    """Print the table of all tasks. Returns the exit code."""
    root = read_settings().data_root
    store, tracking = Store().artifacts(), Tracking()
    rows = {name: task_row(name, folder, store, tracking) for name, folder in find_tasks(root).items()}
    facts = {
        name: {**asdict(row), "broken": row.state == "BROKEN", "problems": as_rows(row.problems)}
        for name, row in rows.items()
    }
    tell({"tasks": facts}, *_lines(rows, root))
    return DONE


def task_row(name: str, folder: Path, store: ArtifactStore, tracking: Tracking) -> TaskRow:
    """Look up the state of a task, without reading its data."""
    task, findings = check_task(folder)
    if task is None or errors(findings):
        return TaskRow("BROKEN", problems=errors(findings))
    candidate = store.newest(name, "model_version")
    serving = registry.champion(tracking, name)
    if candidate is None and serving is None:
        return TaskRow("new")
    release = release_of(store, name, serving) if serving else None
    score = _score(task.spec, release)
    return TaskRow(
        "champion" if serving else "none",
        serving,
        registry.version_tags(tracking, name, serving).get(registry.WINNER_KIND, "tuned") if serving else None,
        score,
        f"{metric_title(task.spec.metric)} {score_text(task.spec.metric, score)}" if score is not None else "",
        _made_at(candidate) if candidate else None,
        _result(candidate, serving, rollouts.present(tracking, name)) if candidate else "",
        _drift(store.newest(name, "drift_report")),
    )


def _score(spec: TaskSpec, release: Artifact | None) -> float | None:
    """Return the champion's score in the deciding metric; None if its release is missing."""
    if release is None:
        return None
    value = read_json(release.path(RECORD))["scores"].get("value")
    return float(value) if value is not None else None


def _made_at(artifact: Artifact) -> str:
    made = (artifact.folder / MANIFEST).stat().st_mtime
    return datetime.fromtimestamp(made).astimezone().isoformat(timespec="seconds")


def _result(candidate: Artifact, serving: int | None, rollout: Rollout | None) -> str:
    released = candidate.read(Released)
    if released.model_version == serving:
        return "promoted"
    if rollout and released.model_version == rollout.candidate:
        return f"in rollout ({rollout.alias})"
    return "passed" if released.gates_passed else "refused"


def _drift(report: Artifact | None) -> str:
    if report is None:
        return ""
    facts = report.read(DriftReport)
    if not facts.judged:
        return "too few rows"
    return ", ".join(facts.drifted) or "none"


def _lines(rows: Mapping[str, TaskRow], root: Path) -> list[str]:
    if not rows:
        return [f"there is no task in {root}; {NO_TASK}"]
    table: list[tuple[str, ...]] = [("task", "state", "champion", "score", "last run", "drift")]
    table += [(name, *row.cells) for name, row in rows.items()]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    for name, row in rows.items():
        at = list(rows).index(name) + 1
        problems = [indent(str(problem), 4 * " ") for problem in row.problems[:SHOWN_PROBLEMS]]
        if len(row.problems) > SHOWN_PROBLEMS:
            problems.append(f"    … and {len(row.problems) - SHOWN_PROBLEMS} more: finetune check {name}")
        lines[at] = "\n".join([lines[at], *problems])
    return lines
