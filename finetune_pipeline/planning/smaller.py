"""Out of memory: the nearest setting that needs less, by the same search as the training plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.planning.planner import Planner
from finetune_pipeline.planning.search import changes, ladder, nearest, reasons

ENOUGH = 0.85
"""What the plan must come down to, of what the settings that ran out would take beyond interpreter and libraries."""


def nearest_smaller(job: Mapping[str, Any]) -> str:
    """One sentence for people: which keys of task.yaml to change, and what that costs, for a job of :mod:`.jobs`."""
    if job.get("action") == "train":
        return _training(job)
    batch = job.get("batch_size")
    if batch is not None and batch > 1:
        return f"set baseline.batch_size: {batch // 2} (now {batch}); the answers stay the same, it takes longer"
    return "use a machine with more memory, or a smaller base_model"


def _training(job: Mapping[str, Any]) -> str:
    settings = job["settings"]
    needs = _formula(job)
    if needs is None:  # nothing to compute with: the first rung of the ladder
        found = next((s for s in ladder(settings) if changes(settings, s)), None)
    else:
        found, _ = nearest(settings, needs, int(ENOUGH * needs(settings)))
        found = found or min(ladder(settings), key=needs)
        found = found if needs(found) < needs(settings) else None
    if found is None:
        return "use a machine with more memory, or a smaller base_model"
    change = changes(settings, found)
    told = ", ".join(f"training.{key}: {_said(value)} (now {_said(settings[key])})" for key, value in change.items())
    why = "; ".join(r.partition(": ")[2] for r in reasons(change))
    less = f"; about {needs(found) / 2**20:.0f} MiB instead of {needs(settings) / 2**20:.0f}" if needs else ""
    return f"set {told}; {why}{less}"


def _formula(job: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], int] | None:
    """Bytes by the plan's formula for any settings, what no setting changes left out; None without the job's files."""
    try:
        planner = Planner(Path(job["base"]), read_examples(Path(job["train"])), read_examples(Path(job["validation"])))
        planner.memory(job["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

    def needs(settings: Mapping[str, Any]) -> int:
        memory = planner.memory(settings)
        return memory.needed - memory.overhead

    return needs


def _said(value: Any) -> str:
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else f"{value}"
