"""How fast this machine trains: rates measured here, kept with their dates, and intervals of time that follow from them."""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from finetune_pipeline.artifacts import read_json, write_json

FILE = "throughput.json"
_KEPT = 8
"""Rates kept for one kind of training, newest last."""
_SPREAD = {"training": (0.8, 1.3), "calibration": (0.7, 1.6), "another kind": (0.4, 2.5), "matrix product": (0.9, 8.0)}
"""How far the time may lie from what a rate says, by what the rate comes from. A rate from a matrix product is the most
the machine can do: real training reaches an eighth to all of it."""

_LOW_PRECISION = 4
"""How much faster native bfloat16 products are than float32 ones (here 460 against 80 GFLOP/s a core, less on others)."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Operations a second of one training (planning.work), and what it was: source ``training`` or ``calibration``."""

    machine: str
    model: str
    method: str
    precision: str
    flops_per_second: float
    source: str
    date: str


@dataclass(frozen=True, slots=True)
class Time:
    """Seconds from `low` to `high`, and in a sentence where they come from."""

    low: float
    expected: float
    high: float
    source: str


def machine_name() -> str:
    """This machine as rates know it: processor, its number of cores."""
    import psutil

    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    return f"{model}, {psutil.cpu_count() or 1} cores"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def read_rates(home: Path) -> list[Rate]:
    """The rates kept below `home`, oldest first; a file that cannot be read counts as none."""
    path = home / FILE
    try:
        return [Rate(**row) for row in read_json(path)] if path.exists() else []
    except (ValueError, TypeError, KeyError):
        return []


def keep_rate(home: Path, rate: Rate) -> None:
    """Add a rate; of each kind (machine, model, method, precision) the newest eight stay."""
    rates = [*read_rates(home), rate]
    kind = [r for r in rates if _kind(r) == _kind(rate)]
    rates = [r for r in rates if _kind(r) != _kind(rate)] + kind[-_KEPT:]
    write_json(home / FILE, [asdict(r) for r in rates])


def _kind(rate: Rate) -> tuple[str, str, str, str]:
    return rate.machine, rate.model, rate.method, rate.precision


def record(
    home: Path, *, model: str, method: str, precision: str, flops: float, seconds: float, source: str = "training"
) -> None:
    """Keep what a finished training (or calibration) says about this machine. Does nothing without time or work."""
    if seconds > 0 and flops > 0:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        keep_rate(home, Rate(machine_name(), model, method, precision, flops / seconds, source, today))


def estimate_time(
    flops: float, rates: Sequence[Rate], *, model: str, method: str, precision: str, peak: float | None = None
) -> Time:
    """Time for so many operations. From trainings of the same kind on this machine where there are any, else from its
    calibration, else from trainings of another kind here, else from `peak`, the operations a second of a matrix product.
    """
    here = [r for r in rates if r.machine == machine_name()]
    same = [r for r in here if (r.model, r.method, r.precision) == (model, method, precision)]
    for source in ("training", "calibration"):
        found = [r for r in same if r.source == source]
        if found:
            return _interval(flops, found, source, f"{len(found)} {source}{'s' * (len(found) > 1)} of this kind here")
    if here:
        near = [r for r in here if r.model == model] or here
        return _interval(
            flops, near, "another kind", f"{len(near)} of another kind here ({near[-1].method}, {near[-1].model})"
        )
    peak = (peak or matrix_product_rate()) * (_LOW_PRECISION if precision == "bfloat16" else 1)
    low, high = _SPREAD["matrix product"]
    told = "a matrix product in float32; --calibrate measures training itself"
    return Time(flops / peak * low, flops / peak * 3, flops / peak * high, told)


def _interval(flops: float, rates: Sequence[Rate], source: str, told: str) -> Time:
    seconds = sorted(flops / r.flops_per_second for r in rates)
    low, high = _SPREAD[source]
    newest = flops / rates[-1].flops_per_second
    return Time(seconds[0] * low, newest, seconds[-1] * high, f"{told}, last on {rates[-1].date}")


@cache
def matrix_product_rate(size: int = 768, seconds: float = 0.25) -> float:
    """Operations a second of NumPy's float32 matrix product on this machine, the best of what fits into `seconds`."""
    import numpy as np

    a = np.full((size, size), 0.5, np.float32)
    best, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        a @ a
        best = max(best, 2.0 * size**3 / (time.perf_counter() - start))
    return best


def record_training(
    home: Path, model: str, plan: Mapping[str, Any], facts: Mapping[str, Any], measured: Mapping[str, Any]
) -> None:
    """Keep the rates of a finished training of the graph: one for each of its phases.

    plan: facts of its training_plan (phases with their flops and steps); facts: of the adapter; measured: measured.json.
    A phase that was mostly done before a kill says too little and is left out.
    """
    told = list(measured.get("phases") or [measured])
    for phase, seen in zip(plan.get("phases", []), told, strict=False):
        share = seen.get("steps_run", 0) / max(phase["steps"], 1)
        if share < 0.2 or not seen.get("train_seconds"):
            continue
        record(
            home,
            model=model,
            method=phase["method"],
            precision=facts["precision"],
            flops=phase["flops"] * share,
            seconds=seen["train_seconds"],
        )
