"""Corrected production rows that judge models: those no version of the task has learned from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from finetune_pipeline.engine.store import ArtifactStore, digest_json
from finetune_pipeline.production.choosing import example_of
from finetune_pipeline.production.ingest import Logs, chosen
from finetune_pipeline.production.used import rows_of_data
from finetune_pipeline.spec.model import TaskSpec


def learned_by(store: ArtifactStore, task: str, champion: Mapping[str, Any] | None) -> set[str]:
    """Ids of the production examples in the data of the champion; none without a champion, or one made elsewhere."""
    adapter = store.find(task, "adapter", str(champion["adapter"])) if champion else None
    return rows_of_data(store, task, adapter.inputs["train_split"]) if adapter else set()


def judging_rows(spec: TaskSpec, rows: Iterable[dict[str, Any]], learned: Collection[str]) -> list[dict[str, Any]]:
    """Of choosing.Chosen.judging those the champion has not learned from either, under an earlier spec; learned: see
    :func:`learned_by`."""
    return [row for row in rows if example_of(row, spec).id not in learned]


def judging_digest(spec: TaskSpec, logs: Logs, learned: Collection[str]) -> str:
    """Changes only when the rows that judge change; empty where there are none."""
    rows = judging_rows(spec, chosen(spec, logs).judging, learned)
    return digest_json([{k: v for k, v in row.items() if k != "source"} for row in rows]) if rows else ""
