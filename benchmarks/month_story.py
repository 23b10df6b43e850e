"""What month.py left in the stores: log rows, drift reports, Dagster's runs and checks, MLflow's versions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from month_world import A_DAY, SENSORS, TASK

from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.orchestration.assets import LIVE
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.production.drift import moment, version_of
from finetune_pipeline.production.log_merging import read_logs
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import load_task
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.tracking import Tracking
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
    """A candidate: its number, when it was decided, the gates (name, passed, message), its data, and how it did on recent
    production rows (production_rows.recent_rows; None where none were kept)."""

    number: int
    time: float
    gates: list[tuple[str, bool, str]]
    data: str
    production: Mapping[str, Any] | None = None

    @property
    def failed(self) -> list[str]:
        return [name for name, passed, _ in self.gates if not passed]

    @property
    def won_on_recent_rows(self) -> bool:
        """Whether the whole interval of its gain over the champion of then, on recent production rows, lies above zero."""
        found = self.production["comparisons"].get("champion") if self.production else None
        return found is not None and found["interval"][0] > 0

    @property
    def on_recent_rows(self) -> str:
        """Its score and the champion's on recent production rows, in words; empty where they were not compared."""
        if not self.production or "champion" not in self.production["comparisons"]:
            return ""
        found, scores = self.production["comparisons"]["champion"], self.production["scores"]
        low, high = found["interval"]
        return (
            f"on {found['n']} recent production rows the champion has {scores['champion']['value']:.1%} right, the candidate "
            f"{scores['candidate']['value']:.1%} ({100 * found['gain']:+.1f} points, {100 * low:+.1f} to {100 * high:+.1f})"
        )


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

    checks: (time, passed, what was told) of the check of the champion; rolled_back: (time, why); planted: what only the play
    knows.
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
    """Everything from the stores."""
    store, tracking, task = Store().artifacts(), Tracking(), load_task(project.folder)
    logs = read_logs(task, store)
    rows = logs.rows
    newest = store.all_versions(TASK, "production_logs")[-1].facts
    tags = tracking.client().get_registered_model(TASK).tags
    return Story(
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
        planted=planted,
        aliases=registry.aliases(tracking, TASK),
    )


def read_runs() -> list[Run]:
    """The task's runs that have begun, in order."""
    with dg.DagsterInstance.from_config(str(read_settings().project)) as instance:
        records = instance.get_run_records(dg.RunsFilter(tags={"finetune/task": TASK}), ascending=True)
    return sorted((_run(r) for r in records if r.start_time), key=lambda run: run.time)


def read_checks() -> list[tuple[float, bool, str]]:
    """Every answer of the check of the champion, in order: (time, passed, what was told)."""
    step, check = LIVE
    key = dg.AssetCheckKey(dg.AssetKey([TASK, step]), check.name)
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
    return Release(made.facts["model_version"], _made(made), gates, report.inputs["splits"], report.facts["production"])


def _run(record: dg.RunRecord) -> Run:
    run = record.dagster_run
    return Run(
        float(record.start_time or 0.0),
        run.job_name,
        run.tags.get("finetune/trigger", ""),
        run.tags.get("finetune/why", ""),
        run.status.value,
    )
