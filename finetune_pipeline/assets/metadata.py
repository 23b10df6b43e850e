"""Facts as Dagster metadata: numbers as numbers (the UI plots them), the rest readable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg


def as_metadata(facts: Mapping[str, Any]) -> dict[str, dg.MetadataValue]:
    """Every fact as a metadata value; ``summary_markdown`` becomes rendered text, a Path a path, containers JSON."""
    shown: dict[str, dg.MetadataValue] = {}
    for name, value in facts.items():
        if name.endswith("_markdown"):
            shown[name.removesuffix("_markdown")] = dg.MetadataValue.md(str(value))
        elif isinstance(value, bool):
            shown[name] = dg.MetadataValue.bool(value)
        elif isinstance(value, int):
            shown[name] = dg.MetadataValue.int(value)
        elif isinstance(value, float):
            shown[name] = dg.MetadataValue.float(value) if math.isfinite(value) else dg.MetadataValue.text(str(value))
        elif isinstance(value, Path):
            shown[name] = dg.MetadataValue.path(value)
        elif isinstance(value, str) and value.startswith(("http://", "https://")):
            shown[name] = dg.MetadataValue.url(value)
        elif isinstance(value, str):
            shown[name] = dg.MetadataValue.text(value)
        elif value is not None:
            shown[name] = dg.MetadataValue.json(value)
    return shown


def numbers(facts: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """All finite numbers in nested facts, under dotted names, for MLflow's metrics. Lists are left out."""
    found: dict[str, float] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and math.isfinite(value):
            found[f"{prefix}{name}"] = float(value)
    return found
