"""Tracks production rows: used to train which candidate, kept for evaluation, or waiting for the next one."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.data.raw_files import FILES, PRODUCTION_FILE
from finetune_pipeline.engine.store import Artifact, ArtifactStore, digest_json
from finetune_pipeline.production.choosing import example_of, settings
from finetune_pipeline.production.drift import DAY, moment
from finetune_pipeline.production.ingest import Logs, Remembered, chosen, corrections, read_logs
from finetune_pipeline.production.intake import log_store, take_in
from finetune_pipeline.production.log_files import log_files
from finetune_pipeline.spec.model import Task, TaskSpec


def judged_reports(store: ArtifactStore, task: str) -> Iterator[Artifact]:
    """The evaluation report of every candidate that was registered, promoted or not."""
    for version in store.all_versions(task, "model_version"):
        report = store.find(task, "evaluation_report", version.inputs["evaluation_report"])
        if report is not None:
            yield report


def production_examples(raw: Artifact) -> list[Example]:
    """The examples from production among the raw ones."""
    path = raw.folder / FILES / PRODUCTION_FILE
    return read_examples(path) if path.exists() else []


def rows_behind(store: ArtifactStore, report: Artifact) -> set[str]:
    """Ids of the production examples in the data a candidate was made from."""
    raw = store.find(report.task, "raw_examples", report.inputs["raw_examples"])
    return {e.id for e in production_examples(raw)} if raw else set()


def used_rows(store: ArtifactStore, task: str) -> set[str]:
    """Ids of production examples that some registered candidate was made from."""
    return {i for report in judged_reports(store, task) for i in rows_behind(store, report)}


def rows_of_data(store: ArtifactStore, task: str, splits: str) -> set[str]:
    """Ids of production examples in the data that became these splits."""
    return {i for r in judged_reports(store, task) if r.inputs["splits"] == splits for i in rows_behind(store, r)}


def logged_as(examples: Iterable[Example]) -> set[str]:
    """Ids of the log rows that examples came from."""
    return {tag.removeprefix("log:") for e in examples for tag in e.tags if tag.startswith("log:")}


def learned_by(store: ArtifactStore, task: str, champion: Mapping[str, Any] | None) -> set[str]:
    """Ids of the production examples in the data of the champion; none without a champion, or one made elsewhere."""
    adapter = store.find(task, "adapter", str(champion["adapter"])) if champion else None
    return rows_of_data(store, task, adapter.inputs["train_split"]) if adapter else set()


def judging_rows(spec: TaskSpec, rows: Iterable[dict[str, Any]], learned: Collection[str]) -> list[dict[str, Any]]:
    """Of choosing.Chosen.judging those the champion has not learned from either, under an earlier spec (see
    :func:`learned_by`)."""
    return [row for row in rows if example_of(row, spec).id not in learned]


def judging_digest(spec: TaskSpec, logs: Logs, learned: Collection[str]) -> str:
    """Changes only when the rows that judge change; empty where there are none."""
    rows = judging_rows(spec, chosen(spec, logs).judging, learned)
    return digest_json([{k: v for k, v in row.items() if k != "source"} for row in rows]) if rows else ""


@dataclass(frozen=True)
class Waiting:
    """Corrected rows no registered candidate was made from: whether they should start a run, how many there are, why a
    run starts or does not, and a digest of exactly these rows."""

    ready: bool
    usable: int
    sentence: str
    digest: str


@dataclass(frozen=True)
class _Fresh:
    """Of the usable rows nothing was made from: how many, a digest of them, and when the oldest was logged."""

    rows: int
    digest: str
    oldest: float | None


_FRESH: Remembered[_Fresh] = Remembered()


def waiting_rows(task: Task, store: ArtifactStore, now: float | None = None) -> Waiting:
    """Compare the corrections in the logs with those every registered candidate was made from. Asked again with nothing
    new, it reads no rows. now: seconds since 1970.

    Ready: `logs.min_new_rows` of them, or any whose oldest was logged `retraining.longest_wait_days` ago; and the files
    have been quiet for `logs.settle_seconds`.
    """
    take_in(task, store)
    key = [
        log_store(task, store).digest(),
        settings(task.spec),
        [v.version for v in store.all_versions(task.name, "model_version")],
    ]
    fresh = _FRESH.get(task.name, digest_json(key), lambda: _fresh(task, store))
    needed, longest = task.spec.logs.min_new_rows, task.spec.retraining.longest_wait_days
    now = time.time() if now is None else now
    days = (now - (now if fresh.oldest is None else fresh.oldest)) / DAY
    sentence = f"{fresh.rows} of {needed} corrected new rows in {task.spec.logs.path}/"
    if not fresh.rows:
        return Waiting(False, 0, sentence, fresh.digest)
    overdue = days >= longest
    if fresh.rows < needed and not overdue:
        waits = f"{sentence}; the oldest waits {days:.1f} of at most {longest:g} days"
        return Waiting(False, fresh.rows, waits, fresh.digest)
    quiet = now - max((f.modified for f in log_files(task) if f.modified is not None), default=0.0)
    settle = task.spec.logs.settle_seconds
    if quiet < settle:
        sentence = f"{fresh.rows} new rows, but the files were written {quiet:.0f} s ago and must rest for {settle} s"
        return Waiting(False, fresh.rows, sentence, fresh.digest)
    if fresh.rows >= needed:
        sentence = f"{fresh.rows} corrected new rows, {needed} asked for"
    else:
        sentence = f"{sentence}, but the oldest has waited {days:.0f} days, longer than {longest:g}"
    return Waiting(True, fresh.rows, sentence, fresh.digest)


def _fresh(task: Task, store: ArtifactStore) -> _Fresh:
    logs = read_logs(task, store)
    used = used_rows(store, task.name)
    fresh = [e for e in corrections(task.spec, logs) if e.id not in used]
    logged = {row["id"]: moment(row) for row in logs.rows}
    oldest = min((logged[name] for name in logged_as(fresh)), default=None)
    return _Fresh(len(fresh), digest_json(sorted(e.id for e in fresh))[:16], oldest)
