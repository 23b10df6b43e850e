"""How many rows of a step's predictions failed, from its facts. Nothing is made from a step with such rows; when it runs again
it asks only them, since all other answers are in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_pipeline.evaluation.endpoint_answers import API
from finetune_pipeline.evaluation.predictions import of_the_test


def failed_test_rows(facts: Mapping[str, Any]) -> dict[str, int]:
    """By model: test rows without an answer. Perturbed rows and production rows are no part of the test."""
    return {name: _failed(told) for name, told in facts["sets"].items() if of_the_test(name)}


def failed_baseline_rows(facts: Mapping[str, Any]) -> dict[str, int]:
    """By prompt: validation rows without an answer. A few failed requests are a fact of API models: they count as wrong,
    too many stop the step itself, and none is told here."""
    details = facts["prompt_details"]
    return {name: _failed(details[name]) for name in facts["prompts"] if not name.startswith(API)}


def _failed(asked: Mapping[str, Any]) -> int:
    """Rows without an answer, freely written or restricted to the schema."""
    restricted = (asked.get("restricted") or {}).get("statuses") or {}
    return int(asked["statuses"].get("error", 0)) + int(restricted.get("error", 0))


def unscored_items(facts: Mapping[str, Any]) -> dict[str, int]:
    """Items of general ability without a score."""
    return {"items": facts["unscored"]} if facts["items"] else {}
