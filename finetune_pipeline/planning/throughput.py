"""How fast this machine trained before, and the time that a plan takes by it.

Every finished training of the graph adds the tokens a second of its phases to throughput.json. A plan has a time only where
a training of the same model, method and precision was measured on the same machine; otherwise the training itself says
how long it takes, after its first steps.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from finetune_pipeline.engine.store import read_json, write_json
from finetune_pipeline.models.hardware import cpu_model

FILE = "throughput.json"
_SPREAD = (0.8, 1.3)
"""How far a time may lie from what the rate of an earlier training says."""
_LEAST = 0.2
"""Share of a phase's steps that must have run in one process for its rate to count."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens a second of one phase of a training."""

    machine: str
    model: str
    method: str
    precision: str
    tokens_per_second: float
    date: str

    @property
    def kind(self) -> tuple[str, str, str, str]:
        return self.machine, self.model, self.method, self.precision


@dataclass(frozen=True, slots=True)
class Seconds:
    """A time: from `low` to `high` seconds, likely `expected`; source: where it comes from, for people."""

    low: float
    expected: float
    high: float
    source: str


def machine_name() -> str:
    """This machine as rates know it: processor and number of cores."""
    return f"{cpu_model()}, {psutil.cpu_count() or 1} cores"


def read_rates(home: Path) -> list[Rate]:
    """The rates kept in a folder, one of each kind; a file that cannot be read counts as none."""
    path = home / FILE
    try:
        return [Rate(**row) for row in read_json(path)] if path.exists() else []
    except (ValueError, TypeError, KeyError):
        return []


def keep_rate(home: Path, rate: Rate) -> None:
    """Keep a rate in place of the one of its kind."""
    write_json(home / FILE, [asdict(r) for r in [*(r for r in read_rates(home) if r.kind != rate.kind), rate]])


def record_training(
    home: Path, model: str, plan: Mapping[str, Any], facts: Mapping[str, Any], measured: Mapping[str, Any]
) -> None:
    """Keep the rate of each phase of a finished training.

    Args:
        plan: Facts of its training_plan: phases with their tokens and steps.
        facts: Facts of the adapter.
        measured: measured.json of the training. A phase that was mostly done before a restart is left out.
    """
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    phases = list(measured.get("phases") or [measured])
    for phase, run in zip(plan.get("phases", []), phases, strict=False):
        share = run.get("steps_run", 0) / max(phase["steps"], 1)
        seconds = run.get("train_seconds") or 0
        if share >= _LEAST and seconds > 0 and phase["tokens"] > 0:
            speed = phase["tokens"] * share / seconds
            keep_rate(home, Rate(machine_name(), model, phase["method"], facts["precision"], speed, today))


def estimate_seconds(
    phases: Sequence[tuple[str, float]], rates: Sequence[Rate], model: str, precision: str
) -> Seconds | None:
    """The time of a training, or None where a phase was never measured here.

    Args:
        phases: (method, tokens) of each phase.
        rates: Rates of any machine and kind; only those of this machine and of the phase's own kind count.
    """
    by_kind, seconds, date = {rate.kind: rate for rate in rates}, 0.0, ""
    for method, tokens in phases:
        rate = by_kind.get((machine_name(), model, method, precision))
        if rate is None:
            return None
        seconds, date = seconds + tokens / rate.tokens_per_second, rate.date
    low, high = (round(seconds * factor, 1) for factor in _SPREAD)
    return Seconds(low, round(seconds, 1), high, f"the last training of this kind here, on {date}")
