"""What lies in the logs and has not been used yet: the question the sensor asks."""

from __future__ import annotations

import time
from dataclasses import dataclass

from finetune_pipeline.artifacts import ArtifactStore, digest_json
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.production.ingest import corrections, read_logs
from finetune_pipeline.production.log_files import log_files
from finetune_pipeline.spec.model import Task


@dataclass(frozen=True)
class Waiting:
    """usable: corrected rows no run has taken in yet; sentence: why a run starts or not; digest: of exactly these rows."""

    ready: bool
    usable: int
    sentence: str
    digest: str


def what_waits(task: Task, store: ArtifactStore, now: float | None = None) -> Waiting:
    """Compare the corrections in the logs with those of every earlier ingestion. `now`: seconds since the epoch."""
    examples = corrections(task.spec, read_logs(task, store))
    used = {
        e.id
        for artifact in store.all_versions(task.name, "production_logs")
        for e in read_examples(artifact.path("examples.jsonl"))
    }
    fresh = [e.id for e in examples if e.id not in used]
    needed = task.spec.logs.min_new_rows
    digest = digest_json(sorted(fresh))[:16]
    if len(fresh) < needed:
        return Waiting(
            False, len(fresh), f"{len(fresh)} of {needed} corrected new rows in {task.spec.logs.path}/", digest
        )
    written = max((f.modified for f in log_files(task) if f.modified is not None), default=0.0)
    quiet = (now if now is not None else time.time()) - written
    settle = task.spec.logs.settle_seconds
    if quiet < settle:
        return Waiting(
            False,
            len(fresh),
            f"{len(fresh)} new rows, but the files were written {quiet:.0f} s ago and must rest for {settle} s",
            digest,
        )
    return Waiting(True, len(fresh), f"{len(fresh)} corrected new rows, {needed} asked for", digest)
