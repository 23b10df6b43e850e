"""What lies in the logs and no candidate was made from yet: the question the sensor asks."""

from __future__ import annotations

import time
from dataclasses import dataclass

from finetune_pipeline.engine.store import ArtifactStore, digest_json
from finetune_pipeline.production.choosing import settings
from finetune_pipeline.production.ingest import corrections, read_logs
from finetune_pipeline.production.intake import log_store, take_in
from finetune_pipeline.production.log_files import log_files
from finetune_pipeline.production.remembered import Remembered
from finetune_pipeline.production.used import logged_as, used_rows
from finetune_pipeline.production.watch import DAY, moment
from finetune_pipeline.spec.model import Task


@dataclass(frozen=True)
class Waiting:
    """usable: corrected rows no registered candidate was made from; sentence: why a run starts or not; digest: of exactly
    these rows."""

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


def what_waits(task: Task, store: ArtifactStore, now: float | None = None) -> Waiting:
    """Compare the corrections in the logs with those every registered candidate was made from.

    Ready: `logs.min_new_rows` of them, or any whose oldest was logged `retraining.longest_wait_days` ago; and the files
    have been quiet for `logs.settle_seconds`. now: seconds since 1970. Asked again with nothing new, it reads no rows.
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
    told = f"{fresh.rows} of {needed} corrected new rows in {task.spec.logs.path}/"
    if not fresh.rows:
        return Waiting(False, 0, told, fresh.digest)
    overdue = days >= longest
    if fresh.rows < needed and not overdue:
        waits = f"{told}; the oldest waits {days:.1f} of at most {longest:g} days"
        return Waiting(False, fresh.rows, waits, fresh.digest)
    quiet = now - max((f.modified for f in log_files(task) if f.modified is not None), default=0.0)
    settle = task.spec.logs.settle_seconds
    if quiet < settle:
        told = f"{fresh.rows} new rows, but the files were written {quiet:.0f} s ago and must rest for {settle} s"
        return Waiting(False, fresh.rows, told, fresh.digest)
    if fresh.rows >= needed:
        told = f"{fresh.rows} corrected new rows, {needed} asked for"
    else:
        told = f"{told}, but the oldest has waited {days:.0f} days, longer than {longest:g}"
    return Waiting(True, fresh.rows, told, fresh.digest)


def _fresh(task: Task, store: ArtifactStore) -> _Fresh:
    logs = read_logs(task, store)
    used = used_rows(store, task.name)
    fresh = [e for e in corrections(task.spec, logs) if e.id not in used]
    logged = {row["id"]: moment(row) for row in logs.rows}
    oldest = min((logged[name] for name in logged_as(fresh)), default=None)
    return _Fresh(len(fresh), digest_json(sorted(e.id for e in fresh))[:16], oldest)
