"""Digests of a project's artifacts that are equal in two runs: without durations, memory in use, and what follows from them."""

import hashlib
import json
import re
from typing import Any

from finetune_pipeline_tests.graph.disturbed import digests
from finetune_pipeline_tests.graph.project import Project

_MONEY = {"dollars", "dollars_between", "hours", "hours_between"}
_MEASUREMENTS = {"seconds", "cpu_seconds", "train_seconds", "peak_memory_mib", "planned", *_MONEY}
MEASURED = {
    "plan.json": {"available_mib", "sentence", *_MEASUREMENTS},
    "report.json": {"measured", "time", *_MEASUREMENTS},
}
"""Keys by file whose values are durations, memory in use, estimates made from these, or dates."""
_MEASUREMENT = re.compile(r"\d (s|min|h|MiB|GiB)\b")
_PAGES = ("report.html", "report.md")
"""Show measured values in many places; they follow from report.json, which is compared."""


def contents(project: Project) -> dict[str, str]:
    """Digest of every file of every artifact but the report's pages, by step, version and name, without measured values
    (:data:`MEASURED`)."""
    digest_by_name = {name: digest for name, digest in digests(project).items() if not name.endswith(_PAGES)}
    for name in digest_by_name:
        path = next((project.home / "artifacts").glob(f"*/{name}"))
        if path.name in MEASURED:
            text = json.dumps(_without(MEASURED[path.name], json.loads(path.read_text("utf-8"))), sort_keys=True)
            digest_by_name[name] = hashlib.sha256(text.encode()).hexdigest()
        elif path.name == "README.md":  # the model card
            lines = [line for line in path.read_text("utf-8").splitlines() if not _MEASUREMENT.search(line)]
            digest_by_name[name] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return digest_by_name


def _without(keys: set[str], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(keys, part) for key, part in value.items() if key not in keys}
    return [_without(keys, part) for part in value] if isinstance(value, list) else value
