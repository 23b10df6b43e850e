"""The JSON schema of ``task.yaml``, for editors and for people."""

from __future__ import annotations

from typing import Any

from finetune_pipeline.spec.model import TaskSpec


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a task spec."""
    schema = TaskSpec.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "finetune_pipeline task", **schema}
