"""A task without rows, and synthetic production rows: texts of topic words whose distribution can drift."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from finetune_pipeline.production.drift import DriftReport
from finetune_pipeline.spec import Task, TaskSpec, load_task

LABELS = ["billing", "bug", "howto"]
_COMMON = [f"common{i}" for i in range(400)]
_TOPICS = {label: [f"{label}{i}" for i in range(150)] for label in LABELS}
_NEW = [f"novel{i}" for i in range(150)]
START = datetime(2026, 5, 1, tzinfo=UTC)


def make_task(root: Path) -> Path:
    """Make a task folder without rows."""
    folder = root / "demo"
    (folder / "logs").mkdir(parents=True)
    spec = {
        "name": "demo",
        "description": "d",
        "system_prompt": "s",
        "output": {"kind": "labels", "labels": ["a", "b"]},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(spec))
    return folder


def task_of(folder: Path, **sections: Any) -> Task:
    """A task in `folder` with these sections in its task.yaml."""
    path = make_task(folder) / "task.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **sections}))
    return load_task(path.parent)


def make_spec(output: dict[str, Any] | None = None, **sections: Any) -> TaskSpec:
    """A spec with this output (default: the labels) and these sections."""
    required = {"name": "demo", "description": "d", "system_prompt": "a b"}
    output = output or {"kind": "labels", "labels": LABELS}
    return TaskSpec.model_validate({**required, "output": output, **sections})


def drift_of(*drifted: str, **more: Any) -> DriftReport:
    """The report on 100 rows in which these signals drifted."""
    facts = {"rows": 100, "watched": 100, "by_others": 0, "windows": 1, "waiting_rows": 0, "judged": True}
    facts |= {"reference": "the training rows", "signals": {}, "known": [], "past": [], "since": None, "history": []}
    return DriftReport(**{**facts, "drifted": [*drifted], "sentence": "Drift." if drifted else "No drift.", **more})


def text(rng: random.Random, label: str, new_words: float = 0.0, longer: float = 1.0) -> str:
    """About twelve words, a third of them specific to the label, with Zipf-like frequencies."""
    length = max(3, int(rng.lognormvariate(2.4, 0.4) * longer))
    words = []
    for _ in range(length):
        source = _NEW if rng.random() < new_words else _TOPICS[label] if rng.random() < 0.35 else _COMMON
        words.append(source[min(len(source) - 1, int(rng.paretovariate(0.7)) - 1)])
    return " ".join(words)


def labels(rng: random.Random, n: int, shares: Sequence[float] = (0.5, 0.3, 0.2)) -> list[str]:
    return rng.choices(LABELS, weights=shares, k=n)


def served(
    rng: random.Random,
    n: int,
    start: int = 0,
    *,
    shares: Sequence[float] = (0.5, 0.3, 0.2),
    right: float = 0.9,
    new_words: float = 0.0,
    longer: float = 1.0,
    corrected: float = 0.3,
    per_day: int = 50,
) -> list[dict[str, Any]]:
    """Log rows, with half of the wrong answers flagged. start: Number of the first row. shares: Of the labels. right: Share of
    right answers. new_words: Share of new words. longer: Factor of the text length. corrected: Share of corrected rows."""
    rows = []
    for i, label in enumerate(labels(rng, n, shares)):
        is_right = rng.random() < right
        answer = label if is_right else rng.choice([x for x in LABELS if x != label])
        rows.append({
            "id": f"row-{start + i}", "timestamp": (START + timedelta(days=(start + i) / per_day)).isoformat(),
            "model_version": "1", "input": text(rng, label, new_words, longer), "output": answer,
            "flag": "wrong" if not is_right and rng.random() < 0.5 else None, "score": None,
            "correction": label if rng.random() < corrected else None, "user": None,
        })  # fmt: skip
    return rows
