"""Tracks production rows: which candidate was trained on them, or whether they are for evaluation or the next candidate."""

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.data.raw_files import FILES, MADE_FILES, PRODUCTION_FILE
from finetune_pipeline.engine.files import digest_json
from finetune_pipeline.engine.step import Champion
from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.evaluation.production_rows import LoggedRow
from finetune_pipeline.production.choosing import example_of
from finetune_pipeline.production.choosing import settings as log_settings
from finetune_pipeline.production.drift import DAY, moment
from finetune_pipeline.production.log_intake import ingest_new_lines
from finetune_pipeline.production.log_merging import LatestResult, Logs, cached_choice, read_logs
from finetune_pipeline.production.log_store import log_store
from finetune_pipeline.spec.model import Task, TaskSpec


def reports_of(store: ArtifactStore, versions: Iterable[Artifact]) -> list[Artifact]:
    """Return the evaluation reports of registered candidates that still exist."""
    reports = (store.find(v.task, "evaluation_report", v.inputs["evaluation_report"]) for v in versions)
    return [report for report in reports if report is not None]


def production_examples(raw: Artifact) -> list[Example]:
    """Return the raw examples that come from production."""
    path = raw.folder / FILES / PRODUCTION_FILE
    return read_examples(path) if path.exists() else []


LOGGED_ANSWERS = "logged.jsonl"
"""File of unlabelled_rows with teacher.from_logs: for each row, its answers in the logs (logged_answers.LoggedAnswer)."""


def logged_examples(raw: Artifact) -> list[Example]:
    """Return the raw examples that come from log rows: people's corrections and answers, and a teacher's."""
    paths = [raw.folder / FILES / name for name in MADE_FILES]
    return [example for path in paths if path.exists() for example in read_examples(path)]


def production_ids(store: ArtifactStore, report: Artifact) -> set[str]:
    """Return the ids of the production examples in a candidate's data."""
    raw = store.find(report.task, "raw_examples", report.inputs["raw_examples"])
    return {e.id for e in production_examples(raw)} if raw else set()


def rows_of_data(store: ArtifactStore, task: str, splits: str | None = None) -> set[str]:
    """Return the ids of production examples in the data of these splits; None: of all registered candidates."""
    reports = reports_of(store, store.all_versions(task, "model_version"))
    return {i for r in reports if splits in (None, r.inputs["splits"]) for i in production_ids(store, r)}


def log_row_ids(examples: Iterable[Example]) -> set[str]:
    """Return the ids of the log rows that examples come from."""
    return {tag.removeprefix("log:") for e in examples for tag in e.tags if tag.startswith("log:")}


def learned_by(store: ArtifactStore, task: str, champion: Champion | None) -> set[str]:
    """Return the ids of the production examples in the champion's data; none if there is no champion made here."""
    adapter = store.find(task, "adapter", champion["adapter"]) if champion else None
    return rows_of_data(store, task, adapter.inputs["train_split"]) if adapter else set()


def judging_rows(spec: TaskSpec, rows: Iterable[LoggedRow], learned: Collection[str]) -> list[LoggedRow]:
    """Return the rows of choosing.Chosen.judging that the champion was not trained on under an earlier spec (see
    :func:`learned_by`)."""
    return [row for row in rows if example_of(row, spec).id not in learned]


def judging_digest(spec: TaskSpec, logs: Logs, learned: Collection[str]) -> str:
    """Return a digest that changes only with the rows for evaluation; empty if there are none."""
    rows = judging_rows(spec, cached_choice(spec, logs).judging, learned)
    return digest_json([{k: v for k, v in row.items() if k != "source"} for row in rows]) if rows else ""


@dataclass(frozen=True)
class Waiting:
    """Corrected rows that no registered candidate used: whether they should start a run, their number, the reason (with the rows
    held back), and their digest."""

    ready: bool
    usable: int
    sentence: str
    digest: str


@dataclass(frozen=True)
class _Fresh:
    """A task's usable rows that no candidate used: their digest and sorted times, and how many rows each rule holds back."""

    digest: str
    times: list[float]
    held: Mapping[str, int]


_FRESH: LatestResult[_Fresh] = LatestResult()


def waiting_rows(task: Task, store: ArtifactStore, now: float | None = None) -> Waiting:
    """Compare the corrections in the logs with those that registered candidates used. Called again without new rows, it reads
    none. now: seconds since 1970.

    Rows count when they are `logs.settle_seconds` old. Ready: there are `logs.min_new_rows` of them, or the oldest was logged
    `retraining.longest_wait_days` ago.
    """
    ingest_new_lines(task, store)
    key = [
        log_store(task, store).digest(),
        log_settings(task.spec),
        [v.version for v in store.all_versions(task.name, "model_version")],
    ]
    fresh = _FRESH.latest(task.name, digest_json(key), lambda: _fresh(task, store))
    times = fresh.times
    needed, longest = task.spec.logs.min_new_rows, task.spec.retraining.longest_wait_days
    now = time.time() if now is None else now
    usable = bisect_right(times, now - task.spec.logs.settle_seconds)
    sentence = f"{usable} of {needed} corrected new rows in {task.spec.logs.path}/"
    days = (now - times[0]) / DAY if usable else 0.0
    ready = usable >= needed or days >= longest
    if usable >= needed:
        sentence = f"{usable} corrected new rows, {needed} required"
    elif ready:
        sentence += f", but the oldest has waited {days:.0f} days, longer than {longest:g}"
    elif usable:
        sentence += f"; the oldest has waited {days:.1f} of at most {longest:g} days"
    if fresh.held:
        rules = ", ".join(f"{rule} {count}" for rule, count in fresh.held.items())
        sentence += (
            f"; {sum(fresh.held.values())} more are held back ({rules}) until somebody confirms them: "
            f"finetune review {task.name} --what flagged"
        )
    return Waiting(ready, usable, sentence, fresh.digest)


def _fresh(task: Task, store: ArtifactStore) -> _Fresh:
    logs = read_logs(task, store)
    used, chosen = rows_of_data(store, task.name), cached_choice(task.spec, logs)
    fresh = [e for e in chosen.examples if e.id not in used]
    logged = {row["id"]: moment(row) for row in logs.rows}
    times = sorted(min(logged[name] for name in log_row_ids([e])) for e in fresh)
    held = dict(sorted(Counter(row.rule for row in chosen.held).items()))
    return _Fresh(digest_json(sorted(e.id for e in fresh))[:16], times, held)
