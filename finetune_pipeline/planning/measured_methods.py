"""What each method came to on the shipped task with the bundled model: measured once, dated, by a script."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("measured_methods.yaml")


@cache
def measured_methods() -> dict[str, dict[str, Any]]:
    """{method: {accuracy, interval, loss, date, task, base, passes}} as benchmarks/methods_table.py wrote it."""
    if not FILE.exists():
        return {}
    told = yaml.safe_load(FILE.read_text("utf-8"))
    common = {k: told[k] for k in ("date", "task", "base")}
    return {row["method"]: {**row, **common} for row in told["rows"]}
