"""Records the training speed measured on this machine, and estimates the time of a plan from it.

Every finished training of the graph adds the tokens per second of its phases to throughput.json. A plan has a time only if
a training with the same model, method and precision was measured on the same machine.
"""

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.models.hardware import cpu_model

FILE = "throughput.json"
Rates = dict[str, tuple[float, str]]
"""Tokens per second and date of the last phase of each kind of training."""
_SPREAD = (0.8, 1.3)
"""Assumed relative error of a time estimate."""
_LEAST = 0.2
"""Minimum share of a phase's steps that must have run in one process for its rate to count."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """A time estimate: from `low` to `high` seconds, likely `expected`; source: its origin, as text."""

    low: float
    expected: float
    high: float
    source: str


def kind_of_training(model: str, method: str, precision: str) -> str:
    """Return the key of trainings with comparable rates: processor, number of cores, base model, method and precision."""
    return f"{cpu_model()}, {psutil.cpu_count() or 1} cores: {model}, {method}, {precision}"


def read_rates(home: Path) -> Rates:
    """Read the rates stored in a folder, without invalid ones; an unreadable file counts as empty."""
    try:
        stored = read_json(home / FILE, Rates)
    except (FileNotFoundError, ValueError):
        return {}
    return {kind: (rate, date) for kind, (rate, date) in stored.items() if 0 < rate < math.inf}


def record_training(
    home: Path, model: str, plan: Mapping[str, Any], facts: Mapping[str, Any], measured: Mapping[str, Any]
) -> None:
    """Store the rate of each phase of a finished training, except phases that ran mostly before a restart; measured: the
    training's measured.json."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    phases, rates = list(measured.get("phases") or [measured]), read_rates(home)
    for phase, run in zip(plan.get("phases", []), phases, strict=False):
        share = run.get("steps_run", 0) / max(phase["steps"], 1)
        seconds = run.get("train_seconds") or 0
        if share >= _LEAST and seconds > 0 and phase["tokens"] > 0:
            kind = kind_of_training(model, phase["method"], facts["precision"])
            rates[kind] = (phase["tokens"] * share / seconds, today)
    write_json(home / FILE, rates)


def estimate_seconds(phases: Sequence[tuple[str, float]], rates: Rates, model: str, precision: str) -> Seconds | None:
    """Estimate the time of a training with phases (method, tokens); None if a phase was never measured here."""
    seconds, date = 0.0, ""
    for method, tokens in phases:
        rate = rates.get(kind_of_training(model, method, precision))
        if rate is None:
            return None
        seconds, date = seconds + tokens / rate[0], rate[1]
    low, high = (round(seconds * factor, 1) for factor in _SPREAD)
    return Seconds(low, round(seconds, 1), high, f"the last training of this kind here, on {date}")
