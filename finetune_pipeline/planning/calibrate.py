"""A short training that measures how fast this machine trains, for plans made before anything was trained here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.artifacts import read_json
from finetune_pipeline.data.examples import Example, write_examples
from finetune_pipeline.planning.batches import batch_of
from finetune_pipeline.planning.planner import Planner, compute_width
from finetune_pipeline.planning.throughput import record
from finetune_pipeline.planning.work import training_flops
from finetune_pipeline.training.jobs import train_job

STEPS = 4


def calibrate(
    launch: Callable[[Mapping[str, Any]], dict[str, Any]],
    base: Path,
    train: Sequence[Example],
    settings: Mapping[str, Any],
    work: Path,
    *,
    home: Path,
    model: str,
    device: str = "cpu",
) -> float:
    """Train for four steps with every method the plan's phases have, and keep the rates below `home`.

    The first step is not counted: it warms up. Returns the seconds all of it took. launch: runs a job of training.jobs.
    """
    rows = [*train][: STEPS * settings["batch_size"]]
    write_examples(work / "train.jsonl", rows)
    write_examples(work / "validation.jsonl", rows[:1])
    planner = Planner(base, rows, rows[:1], device)
    took = 0.0
    for number, phase in enumerate(planner.phase_settings(settings)):
        short = {**phase, "epochs": 1.0, "unquantized_epochs": 0.0, "evals_per_epoch": 1}
        place = work / str(number)
        files = {name: work / f"{name}.jsonl" for name in ("train", "validation")}
        launch(
            train_job(base=base, settings=short, out=place / "out", work=place / "work", stage="calibration", **files)
        )
        took += read_json(place / "out" / "measured.json")["seconds"]
        seconds, steps = _steady(place / "work" / "history.jsonl")
        encoded = planner.rows("train", short).rows
        micro, packed = short["micro_batch_size"], planner.packed(short)
        chunks = [encoded[i : i + micro] for i in range(0, len(encoded), micro)]
        flops = sum(training_flops(planner.shape, short, batch_of(c, short, packed)) for c in chunks)
        whole = planner.phases(short)[0].steps.steps
        record(
            home,
            model=model,
            method=short["method"],
            precision="bfloat16" if compute_width(short["precision"], planner.device) == 2 else "float32",
            flops=flops * steps / whole,
            seconds=seconds,
            source="calibration",
        )
    return took


def _steady(history: Path) -> tuple[float, int]:
    """(seconds, steps) from the end of the first step to the end of the last one."""
    lines = [json.loads(line) for line in history.read_text("utf-8").splitlines()]
    ends = [(line["step"], line["seconds"]) for line in lines if "loss" in line]
    if len(ends) < 2:
        return 0.0, 0
    return ends[-1][1] - ends[0][1], ends[-1][0] - ends[0][0]
