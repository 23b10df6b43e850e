"""Helper: trainings in processes that kill themselves at a given step, quick enough to kill many."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_pipeline.engine.store import write_json
from finetune_pipeline_tests import warm_workers
from finetune_pipeline_tests.unit.training.jobs import task


def work(inputs: str, place: str, settings: dict[str, Any], kill_at: int | None, moment: str) -> None:
    """Train (in both phases, where there are two). kill_at: a step, counted over both phases."""
    from finetune_pipeline.trainers import TrainingOrder
    from finetune_pipeline.trainers import train as train_as_ordered
    from finetune_pipeline.training import checkpoints, trainer
    from finetune_pipeline.training.sft import train

    begun = {"before": 0}

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    ended, marked = trainer.ProgressCallback.on_step_end, checkpoints.mark_complete

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if moment == "step" and begun["before"] + state.global_step == kill_at:
            die()
        ended(self, args, state, control, **more)

    def mark_complete(folder: Path, *more: Any) -> None:
        if moment == "saving" and kill_at is not None and begun["before"] + int(folder.name.split("-")[1]) >= kill_at:
            die()
        marked(folder, *more)

    trainer.ProgressCallback.on_step_end = on_step_end  # type: ignore[method-assign]
    checkpoints.mark_complete = mark_complete

    def launch(job: Mapping[str, Any]) -> dict[str, Any]:
        begun["before"] = job.get("steps_before", 0)
        facts, measured = train(dict(job))
        usual = {"seconds": 0.0, "cpu_seconds": 0.0, "peak_memory_mib": 0.0}
        write_json(Path(job["out"]) / "measured.json", {**usual, **measured})
        write_json(Path(job["out"]) / "result.json", facts)
        return facts

    folder = Path(inputs)
    order = TrainingOrder(
        task(settings),
        base=folder / "base",
        train=folder / "train.jsonl",
        validation=folder / "validation.jsonl",
        out=Path(place) / "out",
        work=Path(place) / "work",
        launch=launch,
    )
    facts = train_as_ordered(order)
    (Path(place) / "facts.json").write_text(json.dumps(facts))


def trained(
    inputs: Path, place: Path, settings: dict[str, Any], kill_at: int | None = None, moment: str = "step"
) -> int:
    """Train in a process of its own, which SIGKILLs itself at step `kill_at`, or (``saving``) before the first checkpoint
    from that step on counts. Returns its exit code."""
    arguments = json.dumps([str(inputs), str(place), settings, kill_at, moment])
    command = [*warm_workers.CALL, f"{__name__}:{work.__name__}", arguments]
    return subprocess.run(command, env={**os.environ, **warm_workers.start()}, timeout=240, check=False).returncode


def result(place: Path) -> tuple[bytes, dict[str, Any]]:
    """(bytes of the weights, facts)"""
    (weights,) = (place / "out" / "adapter").glob("*.safetensors")
    return weights.read_bytes(), json.loads((place / "facts.json").read_text())
