"""Which production rows went into which candidate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.data.raw_files import PRODUCTION_FILE
from finetune_pipeline.engine.store import Artifact, ArtifactStore


def judged_reports(store: ArtifactStore, task: str) -> Iterator[Artifact]:
    """The evaluation report of every candidate that was registered, promoted or not."""
    for version in store.all_versions(task, "model_version"):
        report = store.find(task, "evaluation_report", version.inputs["evaluation_report"])
        if report is not None:
            yield report


def rows_behind(store: ArtifactStore, report: Artifact) -> set[str]:
    """Ids of the production examples in the data a candidate was made from."""
    raw = store.find(report.task, "raw_examples", report.inputs["raw_examples"])
    path = raw.folder / "files" / PRODUCTION_FILE if raw else None
    return {e.id for e in read_examples(path)} if path and path.exists() else set()


def used_rows(store: ArtifactStore, task: str) -> set[str]:
    """Ids of production examples that some registered candidate was made from."""
    return {i for report in judged_reports(store, task) for i in rows_behind(store, report)}


def rows_of_data(store: ArtifactStore, task: str, splits: str) -> set[str]:
    """Ids of production examples in the data that became these splits."""
    return {i for r in judged_reports(store, task) if r.inputs["splits"] == splits for i in rows_behind(store, r)}


def logged_as(examples: Iterable[Example]) -> set[str]:
    """Ids of the log rows that examples came from."""
    return {tag.removeprefix("log:") for e in examples for tag in e.tags if tag.startswith("log:")}
