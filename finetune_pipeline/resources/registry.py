"""Registered models: versions, and the aliases that say which one serves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_pipeline.resources.tracking import Tracking

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous_champion"


def register(
    tracking: Tracking,
    name: str,
    *,
    adapter: Path,
    merged: Path,
    base_identity: Mapping[str, Any],
    adapter_version: str,
    run_id: str,
    tags: Mapping[str, Any],
) -> int:
    """Register an adapter as a version of model `name` and give it the alias `candidate`. Returns the version.

    The same adapter_version again returns the version it already has (tags are updated).
    """
    raise NotImplementedError


def champion(tracking: Tracking, name: str) -> int | None:
    """The version that serves, or None."""
    raise NotImplementedError


def version_tags(tracking: Tracking, name: str, version: int) -> dict[str, str]:
    """Tags of a version."""
    raise NotImplementedError


def promote(tracking: Tracking, name: str, version: int) -> int | None:
    """Move `champion` to `version`; the old one becomes `previous_champion` and is returned (None: there was none).

    Raises ValueError unless the version carries the tag gates="passed". Promoting the champion changes nothing.
    """
    raise NotImplementedError


def rollback(tracking: Tracking, name: str) -> int:
    """Exchange `champion` and `previous_champion`; returns the new champion. Raises ValueError without a previous one."""
    raise NotImplementedError
