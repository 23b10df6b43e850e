"""Writes review sheets to files, reads filled-in ones line by line, and stores each decision once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_pipeline.data.json_lines import append_decision, json_rows
from finetune_pipeline.review.queues import ReviewQueue
from finetune_pipeline.review.ratings import table_rows


@dataclass(frozen=True)
class FilledSheet:
    """A returned sheet: the decisions to store, by rater, and the bad lines with their places."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Stored:
    """The numbers of added and already stored decisions, and their files."""

    added: int
    known: int
    files: list[str]


def write_table(queue: ReviewQueue, path: Path) -> None:
    """Write the sheet as JSON Lines to fill in. Raises ValueError for another suffix."""
    if path.suffix != ".jsonl":
        raise ValueError(f"{path.name}: a sheet must be named .jsonl")
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in queue.table), "utf-8")


def read_table(queue: ReviewQueue, path: Path) -> FilledSheet:
    """Read a returned file. Bad lines are reported and affect no other line. Raises ValueError unless it is named .jsonl."""
    sheet = FilledSheet()
    for number, line, wrong in table_rows(path):
        row, problems = (None, [wrong]) if wrong else queue.take(line)
        sheet.problems.extend(f"{path.name}, line {number}: {problem}" for problem in problems)
        if row is not None:
            sheet.rows.setdefault(str(line.get("rater") or line.get("reviewer")), []).append(row)
    return sheet


def store(queue: ReviewQueue, rows: Mapping[str, Sequence[dict[str, object]]]) -> Stored:
    added = 0
    for rater, decisions in rows.items():
        target = queue.target(rater)
        # invalid JSON lines are reported when the ratings are read
        stored = [row for _, row, wrong in json_rows(target) if not wrong] if target.exists() else []
        for row in decisions:
            if row not in stored:
                append_decision(target, row)
                stored.append(row)
                added += 1
    return Stored(added, sum(map(len, rows.values())) - added, [str(queue.target(rater)) for rater in rows])
