"""Writes review sheets to files, reads filled-in ones line by line, and stores each decision once."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_pipeline.data.json_lines import append_line, json_rows
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
    """Write the sheet as a file to fill in: CSV (for spreadsheets) or JSON Lines, by the suffix; others raise ValueError.
    Cells that a spreadsheet would interpret as formulas get a leading apostrophe, which :func:`read_table` removes."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in queue.table), "utf-8")
    elif path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(queue.table[0]) if queue.table else ["id"])
        writer.writeheader()
        for row in queue.table:
            writer.writerow({k: f"'{v}" if _is_formula(v) else v for k, v in row.items()})
        path.write_text("\ufeff" + text.getvalue(), "utf-8", newline="")
    else:
        raise ValueError(f"{path.name}: a sheet must be .csv or .jsonl")


def _is_formula(cell: str) -> bool:
    """Whether a spreadsheet would run the cell, or it is already escaped text that must be returned unchanged."""
    return cell.lstrip("'")[:1] in ("=", "+", "-", "@", "\t", "\r")


def _unescaped(cell: Any) -> Any:
    return cell[1:] if isinstance(cell, str) and cell[:1] == "'" and _is_formula(cell) else cell


def read_table(queue: ReviewQueue, path: Path) -> FilledSheet:
    """Read a returned file; raises ValueError if it is neither CSV nor JSON Lines, or not a sheet. Bad lines are reported and
    affect no other line."""
    if path.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"{path.name}: a sheet must be .csv or .jsonl")
    sheet = FilledSheet()
    for number, cells, wrong in table_rows(path, queue.needed):
        line = {k: _unescaped(v) for k, v in cells.items()} if path.suffix == ".csv" else cells
        row, problems = (None, [wrong]) if wrong else queue.take(line)
        sheet.problems.extend(f"{path.name}, line {number}: {problem}" for problem in problems)
        if row is not None:
            sheet.rows.setdefault(str(line.get("rater") or line.get("reviewer")), []).append(row)
    return sheet


def store(queue: ReviewQueue, rows: Mapping[str, Sequence[dict[str, Any]]]) -> Stored:
    added = 0
    for rater, decisions in rows.items():
        target = queue.target(rater)
        # invalid JSON lines are reported when the ratings are read
        stored = [row for _, row, wrong in json_rows(target) if not wrong] if target.exists() else []
        for row in decisions:
            if row not in stored:
                append_line(target, row, sync=True)
                stored.append(row)
                added += 1
    return Stored(added, sum(map(len, rows.values())) - added, [str(queue.target(rater)) for rater in rows])
