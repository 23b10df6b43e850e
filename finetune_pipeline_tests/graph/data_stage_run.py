"""Makes the data stage of a task, without Dagster: ``python -m … TASK_FOLDER STORE [pool]``. For killing."""

from __future__ import annotations

import sys
from pathlib import Path

from finetune_pipeline.data import workers
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.spec import load_task
from finetune_pipeline.steps.run_inputs import collect_run_inputs


def main(folder: Path, store: Path, pool: bool) -> None:
    if pool:
        workers.LARGE = 0
    task = load_task(folder)
    artifacts = ArtifactStore(store)
    PIPELINE.run_to("splits", task, collect_run_inputs(task, None, artifacts), artifacts)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), "pool" in sys.argv[3:])
