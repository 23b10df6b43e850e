"""What month.py left in the stores: log rows, drift reports, Dagster's runs and checks, MLflow's versions."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
from month_world import A_DAY, SENSORS, TASK

from finetune_pipeline.artifacts import Artifact, ArtifactStore
from finetune_pipeline.checks.production import CHAMPION_SERVES
from finetune_pipeline.data.examples import read_examples, write_examples
from finetune_pipeline.data.split_files import examples_of
from finetune_pipeline.evaluation.predictions import of_model, read_predictions
from finetune_pipeline.evaluation.production_rows import as_examples, compare_models, judge, rows_with_truth, sources_of
from finetune_pipeline.production.ingest import Logs, read_logs
from finetune_pipeline.production.watch import moment, version_of
from finetune_pipeline.resources import registry
from finetune_pipeline.resources.compute import Compute
from finetune_pipeline.resources.store import Store
from finetune_pipeline.resources.tracking import Tracking
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import load_task
from finetune_pipeline.spec.model import Task
from finetune_pipeline_tests.graph.project import Project


@dataclass(frozen=True)
class Look:
    """A drift report: when, rows in the logs by then, windows judged, drifted and known signals, p over the watch of every
    signal, its sentence, and what was decided."""

    time: float
    rows: int
    windows: int
    drifted: list[str]
    known: list[str]
    p: Mapping[str, float]
    sentence: str
    decision: str
    trained_on: str


@dataclass(frozen=True)
class Release:
    """A candidate: its number, when it was decided, the gates (name, passed, message), and its data."""

    number: int
    time: float
    gates: list[tuple[str, bool, str]]
    data: str

    @property
    def failed(self) -> list[str]:
        return [name for name, passed, _ in self.gates if not passed]


@dataclass(frozen=True)
class Run:
    """A run of Dagster: when it began, its job, what started it and why, and how it ended."""

    time: float
    job: str
    trigger: str
    why: str
    status: str

    @property
    def whole(self) -> bool:
        return self.job.endswith("__all")


@dataclass
class Story:
    """A month. days: the log rows of each, in order; feedback: lines of it in the logs; quarantined and held: rows not taken.

    checks: (time, passed, what was told) of the check of the champion; rolled_back: (time, why); recent: whether the first
    candidate made by itself won on recent rows, as a sentence; planted: what only the play knows.
    """

    days: list[list[dict[str, Any]]]
    feedback: int
    quarantined: int
    held: int
    looks: list[Look]
    releases: list[Release]
    runs: list[Run]
    checks: list[tuple[float, bool, str]]
    rolled_back: list[tuple[float, str]]
    recent: tuple[bool, str]
    planted: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, int] = field(default_factory=dict)

    def day_of(self, time: float) -> int:
        """The newest day of which a row was logged by then; 0 before the month."""
        return max((n for n, day in enumerate(self.days, 1) if moment(day[0]) <= time), default=0)

    def began(self, day: int) -> float:
        """When a day began; infinity if it never came."""
        return moment(self.days[day - 1][0]) if len(self.days) >= day else float("inf")

    @property
    def by_sensor(self) -> list[Run]:
        """Whole runs that nobody asked for by hand."""
        return [r for r in self.runs if r.whole and r.trigger in SENSORS]

    @property
    def made_by_itself(self) -> Release | None:
        """The first candidate made after a sensor had started a run."""
        began = self.by_sensor[0].time if self.by_sensor else float("inf")
        return next((r for r in self.releases if r.time > began), None)


def served_by(day: Sequence[Mapping[str, Any]]) -> list[str]:
    """Numbers of the versions that answered a day's rows."""
    return sorted({version_of(row["model_version"]) for row in day})


def right(day: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(answers people found right, answers people said anything of)"""
    told = [r for r in day if r["correction"] is not None]
    return sum(r["correction"] == r["output"].strip() for r in told), len(told)


def read_story(project: Project, planted: Mapping[str, Any]) -> Story:
    """Everything from the stores; compares the candidate on recent rows, which takes some seconds."""
    store, tracking, task = Store().artifacts(), Tracking(), load_task(project.folder)
    logs = read_logs(task, store)
    rows = logs.rows
    newest = store.all_versions(TASK, "production_logs")[-1].facts
    tags = tracking.client().get_registered_model(TASK).tags
    story = Story(
        days=[rows[i : i + A_DAY] for i in range(0, len(rows), A_DAY)],
        feedback=logs.feedback,
        quarantined=len(logs.quarantine),
        held=newest["held"],
        looks=read_looks(store),
        releases=[_release(store, made) for made in store.all_versions(TASK, "model_version")],
        runs=read_runs(),
        checks=read_checks(),
        rolled_back=sorted(
            (moment({"timestamp": name.removeprefix("rollback.")}), why)
            for name, why in tags.items()
            if name.startswith("rollback.")
        ),
        recent=(False, ""),
        planted=planted,
        aliases=registry.aliases(tracking, TASK),
    )
    story.recent = _on_recent_rows(task, store, logs, story)
    return story


def read_runs() -> list[Run]:
    """The task's runs that have begun, in order."""
    with dg.DagsterInstance.from_config(str(read_settings().project)) as instance:
        records = instance.get_run_records(dg.RunsFilter(tags={"finetune/task": TASK}), ascending=True)
    return sorted((_run(r) for r in records if r.start_time), key=lambda run: run.time)


def read_checks() -> list[tuple[float, bool, str]]:
    """Every answer of the check of the champion, in order: (time, passed, what was told)."""
    key = dg.AssetCheckKey(dg.AssetKey([TASK, CHAMPION_SERVES.step]), CHAMPION_SERVES.name)
    with dg.DagsterInstance.from_config(str(read_settings().project)) as instance:
        asked = instance.event_log_storage.get_asset_check_execution_history(key, limit=1000)
    told = [(float(r.create_timestamp), r.evaluation) for r in asked]
    return sorted((time, e.passed, e.description or "") for time, e in told if isinstance(e, dg.AssetCheckEvaluation))


def read_looks(store: ArtifactStore) -> list[Look]:
    """Every drift report with the decision made from it, in order."""
    decisions = {d.inputs["drift_report"]: d for d in store.all_versions(TASK, "retraining_decision")}
    return [
        Look(
            _made(report),
            report.facts["rows"],
            report.facts["windows"],
            report.facts["drifted"],
            report.facts["known"],
            {n: s["p_watch"] for n, s in report.facts["signals"].items() if s["p_watch"] is not None},
            report.facts["sentence"],
            decisions[report.version].facts["sentence"] if report.version in decisions else "",
            report.facts["trained_on"],
        )
        for report in store.all_versions(TASK, "drift_report")
    ]


def _made(artifact: Artifact) -> float:
    return (artifact.folder / "artifact.json").stat().st_mtime


def _release(store: ArtifactStore, made: Artifact) -> Release:
    report = store.find(TASK, "evaluation_report", made.inputs["evaluation_report"])
    assert report is not None
    gates = [(g["name"], bool(g["passed"]), g["message"]) for g in report.facts["gates"]]
    return Release(made.facts["model_version"], _made(made), gates, report.inputs["splits"])


def _run(record: dg.RunRecord) -> Run:
    run = record.dagster_run
    return Run(
        float(record.start_time or 0.0),
        run.job_name,
        run.tags.get("finetune/trigger", ""),
        run.tags.get("finetune/why", ""),
        run.status.value,
    )


def _on_recent_rows(task: Task, store: ArtifactStore, logs: Logs, story: Story) -> tuple[bool, str]:
    """The first candidate a sensor asked for against the champion of then, on rows that came after its run had begun."""
    candidate = story.made_by_itself
    if candidate is None:
        return False, "no candidate was made by itself"
    began, first = story.by_sensor[0].time, story.releases[0]
    models = {}
    for name, number in (("champion", first.number), ("candidate", candidate.number)):
        made = next(v for v in store.all_versions(TASK, "model_version") if v.facts["model_version"] == number)
        models[name] = Path(json.loads(made.path("model_version.json").read_text())["merged"])
    splits = store.find(TASK, "splits", candidate.data)
    assert splits is not None
    trained = [e.user_text for part in ("train", "validation") for e in read_examples(examples_of(splits.folder, part))]
    asked = [r for r in logs.rows if version_of(r["model_version"]) == str(first.number)]
    chosen = rows_with_truth(task.spec, asked, trained=trained, after=began)
    examples = as_examples(task.spec, chosen)
    if not examples:
        return False, "none came in while the candidate was trained"
    from finetune_pipeline.training.jobs import predict_job, prompt_set

    with tempfile.TemporaryDirectory() as folder:
        write_examples(Path(folder) / "rows.jsonl", examples)
        sets = [prompt_set(name=name, model=model) for name, model in models.items()]
        job = predict_job(
            sets=sets,
            examples=Path(folder) / "rows.jsonl",
            labels=task.spec.labels,
            max_new_tokens=6,
            batch_size=8,
            out=Path(folder) / "out",
        )
        Compute().launch(None, job)
        predicted = read_predictions(Path(folder) / "out" / "predictions.parquet")
    told = compare_models(
        task.spec, {n: of_model(predicted, n) for n in models}, chosen.facts(), sources_of(chosen, examples)
    )
    won = bool(told["judged"]) and told["comparisons"]["champion"]["interval"][0] > 0
    return won, judge(told)[1]
