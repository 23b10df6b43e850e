"""Looks at everything outside the graph once, so that a run knows what it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_pipeline.artifacts import SeenFiles
from finetune_pipeline.data.raw_files import raw_digest
from finetune_pipeline.data.review import reviews_digest
from finetune_pipeline.evaluation.ability.items import digest
from finetune_pipeline.graph import World
from finetune_pipeline.models.chat_templates import template_identity
from finetune_pipeline.models.identity import base_identity
from finetune_pipeline.people.ratings import ratings_digest
from finetune_pipeline.production.ingest import corrections_digest, logs_digest
from finetune_pipeline.spec.model import Task
from finetune_pipeline.spec.never_break import never_break_ids
from finetune_pipeline.stages.ability import asked_items


def base_of(task: Task) -> dict[str, Any]:
    """What makes the task's base model the same tomorrow: its identity, and the chat template the task gives it.

    Raises FindingsError when the model or the template's file cannot be found.
    """
    spec = task.spec
    return {
        **base_identity(spec.base_model, spec.base_revision),
        **template_identity(spec.chat_template, task.folder),
    }


def look(task: Task, champion: Mapping[str, Any] | None, seen: SeenFiles | None = None) -> World:
    """The world as it is now. `champion`: the model a candidate must be compared with, or None; `seen`: raw files whose
    digest is known.

    Raises FindingsError when there are no raw files, or the base model or the never-break list cannot be found.
    """
    return World(
        raw=raw_digest(task, seen),
        reviews=reviews_digest(task.folder / "reviews"),
        logs=logs_digest(task),
        corrections=corrections_digest(task),
        base=base_of(task),
        champion=dict(champion) if champion else None,
        never_break=never_break_ids(task.spec, task.folder),
        ratings=ratings_digest(task.folder / "reviews"),
        ability=digest(asked_items(task)),
    )
