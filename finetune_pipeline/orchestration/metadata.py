"""Facts as Dagster metadata: numbers as numbers (the UI plots them), the rest readable."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Mapping
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


def as_picture(svg: bytes, title: str) -> dg.MetadataValue:
    """A picture that is shown where the metadata is: Markdown with the SVG inside it."""
    return dg.MetadataValue.md(f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg).decode()})")


_NOT_IN_NAMES = re.compile(r"[^\w.\- :]")
_LONGEST_NAME = 250
"""MLflow refuses other characters and longer names. A slash it takes, but not every path."""


def numbers(facts: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """All finite numbers in nested facts, under dotted names, for MLflow's metrics. Lists are left out.

    Names come from labels and files of users: characters MLflow refuses become `_`, long names are cut, and of names that
    are then alike the later ones get a number.
    """
    found: dict[str, float] = {}
    for name, value in _numbers(facts, prefix):
        plain = _NOT_IN_NAMES.sub("_", name)[:_LONGEST_NAME]
        unique, n = plain, 2
        while unique in found:
            unique, n = f"{plain[: _LONGEST_NAME - 8]}_{n}", n + 1
        found[unique] = value
    return found


def _numbers(facts: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and math.isfinite(value):
            yield f"{prefix}{name}", float(value)
