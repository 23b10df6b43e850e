"""What month.py left in the stores: log rows, drift reports, Dagster's runs and checks, MLflow's versions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import dagster as dg

from benchmarks.month_world import REQUESTS_PER_DAY, SENSORS, TASK
from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.orchestration.assets import LIVE
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.production.drift import DriftReport, moment, version_of
from finetune_pipeline.production.log_merging import LogFacts, read_logs
from finetune_pipeline.production.retraining import Decision
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import load_task
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline_tests.graph.project import Project


@dataclass(frozen=True)
class DriftLook:
    """A drift report and the decision made from it.

    Attributes:
        time: Seconds since 1970.
        rows: Rows in the logs by then.
        windows: Windows judged.
        drifted: Signals that alarmed.
        known: Drifted signals that the training data already holds.
        p: p-value over the whole watch by signal.
        trained_on: Version of the splits that production was compared with.
    """

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
class Candidate:
    """A registered candidate.

    Attributes:
        number: Of the model version.
        time: When it was decided, in seconds since 1970.
        gates: (name, passed, message).
        data: Version of its splits.
        production: Its scores on recent production rows; None where none were kept.
    """

    number: int
    time: float
    gates: list[tuple[str, bool, str]]
    data: str
    production: Mapping[str, Any] | None = None

    @property
    def failed_gates(self) -> list[str]:
        return [name for name, passed, _ in self.gates if not passed]

    @property
    def against_champion(self) -> Mapping[str, Any] | None:
        """The comparison with the champion of that time on recent production rows, where there was one."""
        return self.production["comparisons"].get("champion") if self.production else None

    @property
    def won_on_recent_rows(self) -> bool:
        """Whether the whole interval of its gain over the champion lies above zero."""
        return self.against_champion is not None and self.against_champion["interval"][0] > 0

    @property
    def on_recent_rows(self) -> str:
        """Its score and the champion's in a sentence; empty where they were not compared."""
        comparison = self.against_champion
        if self.production is None or comparison is None:
            return ""
        scores, (low, high) = self.production["scores"], comparison["interval"]
        return (
            f"on {comparison['n']} recent production rows the champion has {scores['champion']['value']:.1%} right, the "
            f"candidate {scores['candidate']['value']:.1%} ({100 * comparison['gain']:+.1f} points, {100 * low:+.1f} to "
            f"{100 * high:+.1f})"
        )


@dataclass(frozen=True)
class Run:
    """A run of Dagster: when it began, its job, what started it and why, and how it ended."""

    time: float
    job: str
    trigger: str
    reason: str
    status: str

    @property
    def is_whole(self) -> bool:
        return self.job.endswith("__all")


class ChampionCheck(NamedTuple):
    """One execution of the asset check of the model in production."""

    time: float
    passed: bool
    message: str


@dataclass
class History:
    """A month.

    Attributes:
        days: Log rows of each day, in order.
        feedback: Lines of feedback in the logs.
        quarantined: Log lines that were not taken.
        held: Corrections held back as possible poison.
        rollbacks: (time, reason).
        planted: What only month.py knows.
    """

    days: list[list[dict[str, Any]]]
    feedback: int
    quarantined: int
    held: int
    drift_looks: list[DriftLook]
    candidates: list[Candidate]
    runs: list[Run]
    checks: list[ChampionCheck]
    rollbacks: list[tuple[float, str]]
    planted: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, int] = field(default_factory=dict)

    def day_of(self, time: float) -> int:
        """The newest day with a row logged by then; 0 before the month."""
        return max((n for n, day in enumerate(self.days, 1) if moment(day[0]) <= time), default=0)

    def began(self, day: int) -> float:
        """When a day began; infinity if it never did."""
        return moment(self.days[day - 1][0]) if len(self.days) >= day else float("inf")

    @property
    def sensor_runs(self) -> list[Run]:
        """Whole runs that nobody started by hand."""
        return [run for run in self.runs if run.is_whole and run.trigger in SENSORS]

    @property
    def automatic_candidate(self) -> Candidate | None:
        """The first candidate decided after a sensor had started a run."""
        began = self.sensor_runs[0].time if self.sensor_runs else float("inf")
        return next((c for c in self.candidates if c.time > began), None)


def versions_served(day: Sequence[Mapping[str, Any]]) -> list[str]:
    """Numbers of the versions that answered a day's rows."""
    return sorted({version_of(row["model_version"]) for row in day})


def count_right(day: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Return how many labelled answers were right, and how many were labelled."""
    labelled = [row for row in day if row["correction"] is not None]
    return sum(row["correction"] == row["output"].strip() for row in labelled), len(labelled)


def read_history(project: Project, planted: Mapping[str, Any]) -> History:
    store, tracking, task = Store().artifacts(), Tracking(), load_task(project.folder)
    logs = read_logs(task, store)
    tags = tracking.client().get_registered_model(TASK).tags
    return History(
        days=[logs.rows[i : i + REQUESTS_PER_DAY] for i in range(0, len(logs.rows), REQUESTS_PER_DAY)],
        feedback=logs.feedback,
        quarantined=len(logs.quarantine),
        held=store.all_versions(TASK, "production_logs")[-1].read(LogFacts).held,
        drift_looks=read_drift_looks(store),
        candidates=[_candidate(store, version) for version in store.all_versions(TASK, "model_version")],
        runs=read_runs(),
        checks=read_champion_checks(),
        rollbacks=sorted(
            (moment({"timestamp": name.removeprefix("rollback.")}), reason)
            for name, reason in tags.items()
            if name.startswith("rollback.")
        ),
        planted=planted,
        aliases=registry.aliases(tracking, TASK),
    )


def read_runs() -> list[Run]:
    """The task's runs that have begun, in order."""
    with dg.DagsterInstance.from_config(str(read_settings().project)) as instance:
        records = instance.get_run_records(dg.RunsFilter(tags={"finetune/task": TASK}), ascending=True)
    return sorted((_run(record) for record in records if record.start_time), key=lambda run: run.time)


def read_champion_checks() -> list[ChampionCheck]:
    """Every result of the check of the champion, in order."""
    step, check = LIVE
    key = dg.AssetCheckKey(dg.AssetKey([TASK, step]), check.name)
    with dg.DagsterInstance.from_config(str(read_settings().project)) as instance:
        records = instance.event_log_storage.get_asset_check_execution_history(key, limit=1000)
    results = [(float(record.create_timestamp), record.evaluation) for record in records]
    return sorted(
        ChampionCheck(time, result.passed, result.description or "")
        for time, result in results
        if isinstance(result, dg.AssetCheckEvaluation)
    )


def read_drift_looks(store: ArtifactStore) -> list[DriftLook]:
    """Every drift report with its decision, in order."""
    decisions = {
        d.inputs["drift_report"]: d.read(Decision).sentence for d in store.all_versions(TASK, "retraining_decision")
    }
    return [
        DriftLook(
            time=_made_at(artifact),
            rows=report.rows,
            windows=report.windows,
            drifted=report.drifted,
            known=report.known,
            p={name: latest.p_watch for name, latest in report.signals.items() if latest.p_watch is not None},
            sentence=report.sentence,
            decision=decisions.get(artifact.version, ""),
            trained_on=report.trained_on,
        )
        for artifact in store.all_versions(TASK, "drift_report")
        for report in (artifact.read(DriftReport),)
    ]


def _made_at(artifact: Artifact) -> float:
    return (artifact.folder / "artifact.json").stat().st_mtime


def _candidate(store: ArtifactStore, version: Artifact) -> Candidate:
    report = store.find(TASK, "evaluation_report", version.inputs["evaluation_report"])
    assert report is not None
    gates = [(gate["name"], bool(gate["passed"]), gate["message"]) for gate in report.facts["gates"]]
    number = version.facts["model_version"]
    return Candidate(number, _made_at(version), gates, report.inputs["splits"], report.facts["production"])


def _run(record: dg.RunRecord) -> Run:
    run = record.dagster_run
    trigger, reason = (run.tags.get(f"finetune/{tag}", "") for tag in ("trigger", "why"))
    return Run(float(record.start_time or 0.0), run.job_name, trigger, reason, run.status.value)
