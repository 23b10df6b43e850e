"""What was last found out about production, and whether it is time to look again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.artifacts import MANIFEST, Artifact, ArtifactStore
from finetune_pipeline.spec.model import Task


@dataclass(frozen=True)
class Standing:
    """look: why another look at production is due, or None; drifted and retrain: what the last look found; sentence: both of
    its sentences; key: changes with what there is to look at, or with what was found."""

    look: str | None
    drifted: bool
    retrain: bool
    sentence: str
    key: str


def standing(task: Task, store: ArtifactStore, rows: Sequence[Any]) -> Standing:
    """Hold the newest drift report against the rows there are now. A look is due after a window of new rows, and after every
    candidate: what serves, and what production is held against, may have changed."""
    size, name = task.spec.drift.window_rows, task.name
    report, decision = _newest(store, name, "drift_report"), _newest(store, name, "retraining_decision")
    release = _newest(store, name, "model_version")
    if release is None:
        return Standing(None, False, False, f"no candidate was made yet: start `finetune run {name}`", "")
    if release.facts["champion"] is None:
        return Standing(None, False, False, "no champion serves yet, whose data production could be held against", "")
    seen = int(report.facts["rows"]) if report else 0
    stale = report is None or decision is None or _made(report) < _made(release)
    if len(rows) - seen >= size or (stale and len(rows) >= size):
        why = f"{len(rows) - seen} new rows" if not stale else "production was not looked at since the last candidate"
        return Standing(f"{why}: looking at production", False, False, "", f"{release.version}-{len(rows)}")
    if stale or report is None or decision is None:
        return Standing(None, False, False, f"{len(rows)} production rows, a window has {size}", "")
    sentence = f"{report.facts['sentence']} {decision.facts['sentence']}"
    return Standing(None, bool(report.facts["drifted"]), bool(decision.facts["retrain"]), sentence, report.version)


def _newest(store: ArtifactStore, task: str, step: str) -> Artifact | None:
    return next(reversed(store.all_versions(task, step)), None)


def _made(artifact: Artifact) -> int:
    return (artifact.folder / MANIFEST).stat().st_mtime_ns
