"""Makes the data stage of a task, without Dagster: ``python -m … TASK_FOLDER STORE [pool]``. For killing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from finetune_pipeline.data import workers
from finetune_pipeline.data.raw_files import raw_digest
from finetune_pipeline.data.review import reviews_digest
from finetune_pipeline.engine.graph import Graph
from finetune_pipeline.engine.step import RunInputs, Step
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.spec import load_task
from finetune_pipeline.steps.data import STEPS


def no_logs(work: Any) -> dict[str, Any]:
    (work.out / "examples.jsonl").touch()
    return {}


def main(folder: Path, store: Path, pool: bool) -> None:
    if pool:
        workers.LARGE = 0
    task = load_task(folder)
    world = RunInputs(raw_digest(task), reviews_digest(folder / "reviews"), "none", "none", {})
    graph = Graph([Step("production_logs", (), "0", lambda s, w: None, no_logs), *STEPS])
    for name in graph.steps:
        graph.run(name, task, world, ArtifactStore(store))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), "pool" in sys.argv[3:])
