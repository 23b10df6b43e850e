"""Predictions as pairs to compare, and what people said about them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.evaluation.correctness import scored_text
from finetune_pipeline.evaluation.preferences.pairs import Choice, Pair

PREFERS: dict[str, Choice] = {"base": "a", "candidate": "b", "tie": "tie"}


def prediction_pairs(
    base: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]], texts: Mapping[str, str]
) -> list[Pair]:
    """A pair an example (a: base, b: candidate), by id. A generation that failed is an empty answer."""
    after = {row["example_id"]: row for row in candidate}
    return [
        Pair(i, texts.get(i, ""), str(row["gold"]), scored_text(row), scored_text(after[i]))
        for row in sorted(base, key=lambda row: row["example_id"])
        if (i := row["example_id"]) in after
    ]


def read_ratings(path: Path, known: Collection[str]) -> tuple[dict[str, Choice], list[str]]:
    """(choice by example id, problems with their line). The last rating of an example counts; bad lines lose no others."""
    found: dict[str, Choice] = {}
    problems = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, prefers = row["id"], row["prefers"]
        except (ValueError, KeyError, TypeError):
            problems.append(f"{path.name}:{number}: write an object with id and prefers")
            continue
        if prefers not in PREFERS:
            problems.append(f"{path.name}:{number}: prefers is {prefers!r:.40}; write one of {', '.join(PREFERS)}")
        elif name not in known:
            problems.append(f"{path.name}:{number}: {name!r:.40} is no example of the test")
        else:
            found[name] = PREFERS[prefers]
    return found, problems
