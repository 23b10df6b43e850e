"""What lies in the logs and no candidate was made from yet: the question the sensor asks."""

from __future__ import annotations

import time
from dataclasses import dataclass

from finetune_pipeline.artifacts import ArtifactStore, digest_json
from finetune_pipeline.production.ingest import corrections, read_logs
from finetune_pipeline.production.log_files import log_files
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


def what_waits(task: Task, store: ArtifactStore, now: float | None = None) -> Waiting:
    """Compare the corrections in the logs with those every registered candidate was made from.

    Ready: `logs.min_new_rows` of them, or any whose oldest was logged `retraining.longest_wait_days` ago; and the files
    have been quiet for `logs.settle_seconds`. now: seconds since 1970.
    """
    logs = read_logs(task, store)
    used = used_rows(store, task.name)
    fresh = [e for e in corrections(task.spec, logs) if e.id not in used]
    needed, longest = task.spec.logs.min_new_rows, task.spec.retraining.longest_wait_days
    digest = digest_json(sorted(e.id for e in fresh))[:16]
    now = time.time() if now is None else now
    logged = {row["id"]: moment(row) for row in logs.rows}
    days = (now - min((logged[name] for name in logged_as(fresh)), default=now)) / DAY
    told = f"{len(fresh)} of {needed} corrected new rows in {task.spec.logs.path}/"
    if not fresh:
        return Waiting(False, 0, told, digest)
    overdue = days >= longest
    if len(fresh) < needed and not overdue:
        return Waiting(False, len(fresh), f"{told}; the oldest waits {days:.1f} of at most {longest:g} days", digest)
    quiet = now - max((f.modified for f in log_files(task) if f.modified is not None), default=0.0)
    settle = task.spec.logs.settle_seconds
    if quiet < settle:
        return Waiting(
            False,
            len(fresh),
            f"{len(fresh)} new rows, but the files were written {quiet:.0f} s ago and must rest for {settle} s",
            digest,
        )
    if len(fresh) >= needed:
        return Waiting(True, len(fresh), f"{len(fresh)} corrected new rows, {needed} asked for", digest)
    return Waiting(
        True, len(fresh), f"{told}, but the oldest has waited {days:.0f} days, longer than {longest:g}", digest
    )
