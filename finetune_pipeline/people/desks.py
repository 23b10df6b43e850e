"""Three things people review with the same page: answers of the models, synthetic rows, and flagged production rows.

A desk knows what is shown, which lines may come back, and which file of the task folder they belong into.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune_pipeline.data.review import DECISIONS
from finetune_pipeline.data.validate.row_rules import nearest_label
from finetune_pipeline.people.ratings import COLUMNS, FOLDER, parse_rating
from finetune_pipeline.people.sheet import SheetItem
from finetune_pipeline.production.log_files import OWN_FOLDER
from finetune_pipeline.reports.review_page import render_review
from finetune_pipeline.spec.model import Task

Parsed = tuple[dict[str, Any] | None, list[str]]

_RATING_CHOICES: list[dict[str, Any]] = [
    {"value": "A", "label": "only A is acceptable", "key": "1"},
    {"value": "B", "label": "only B is acceptable", "key": "2"},
    {"value": "both", "label": "both are", "key": "3"},
    {"value": "neither", "label": "neither is", "key": "4"},
]
_ROW_CHOICES: list[dict[str, Any]] = [
    {"value": "keep", "label": "keep", "key": "1"},
    {"value": "drop", "label": "drop", "key": "2"},
    {"value": "relabel", "label": "another answer", "key": "3", "answer": True},
]
_FLAG_CHOICES: list[dict[str, Any]] = [
    {"value": "keep", "label": "the answer is right", "key": "1"},
    {"value": "relabel", "label": "another answer", "key": "2", "answer": True},
    {"value": "drop", "label": "leave it out", "key": "3"},
]


@dataclass(frozen=True)
class Desk:
    """question: what is asked of every item. sheet: a name under which browsers keep what is decided. take: judges one line
    that comes back, and gives the row to store (None with no reasons: nothing was decided). target: the file for a rater.
    table: the rows of a sheet to be filled in by file."""

    title: str
    intro: str
    question: str
    sheet: str
    mode: str
    choices: Sequence[Mapping[str, Any]]
    items: Sequence[Mapping[str, Any]]
    take: Callable[[Any], Parsed]
    target: Callable[[str], Path]
    table: Sequence[Mapping[str, str]]
    answers: Sequence[str] | None = None
    done: Sequence[Mapping[str, Any]] = field(default_factory=list)

    def page(self, rater: str = "", token: str = "") -> str:
        """The page, to be served (with a token) or given to people as a file."""
        return render_review(
            title=self.title,
            intro=self.intro,
            sheet=self.sheet,
            mode=self.mode,
            choices=self.choices,
            items=self.items,
            file=self.target("RATER").name,
            rater=rater,
            token=token,
            done=self.done,
            answers=self.answers,
        )


def safe_name(rater: str) -> str:
    """A rater's name as part of a file's name."""
    return "".join(c if c.isalnum() or c in "_-" else "-" for c in rater)[:60] or "somebody"


def outputs_desk(task: Task, sheet: str, items: Sequence[SheetItem], done: Sequence[Mapping[str, Any]] = ()) -> Desk:
    """Answers of base and candidate, blind."""
    known = {item.id for item in items}

    def take(row: Any) -> Parsed:
        rating, wrong = parse_rating(row)
        if rating and rating.sheet != sheet:
            wrong = [f"it belongs to the sheet {rating.sheet}, not to {sheet}"]
        elif rating and rating.id not in known:
            wrong = [f"the sheet has no item {rating.id!r}"]
        return (rating.to_dict() if rating and not wrong else None), wrong

    return Desk(
        f"Review: {task.name}",
        "Two answers to the same input. Which of them would you accept? Which model wrote which is not shown, and changes "
        "from item to item.",
        "Which answers would you accept?",
        sheet,
        "outputs",
        _RATING_CHOICES,
        [
            {
                "id": i.id,
                "blocks": [{"title": "Input", "text": i.text}, {"title": "Reference answer", "text": i.reference}],
                "sides": [{"title": "A", "text": i.a}, {"title": "B", "text": i.b}],
            }
            for i in items
        ],
        take,
        lambda rater: task.folder / "reviews" / FOLDER / f"{sheet}-{safe_name(rater)}.jsonl",
        [
            dict.fromkeys(COLUMNS, "")
            | {"sheet": sheet, "id": i.id, "text": i.text, "reference": i.reference, "answer_a": i.a, "answer_b": i.b}
            for i in items
        ],
        done=done,
    )


def _decision(row: Any, task: Task, known: Mapping[str, Any]) -> Parsed:
    """A decision about a row of data, as data.review reads it."""
    if not isinstance(row, Mapping):
        return None, ["it is no object"]
    told = {k: row.get(k) or "" for k in ("id", "decision", "label", "reviewer", "comment", "time")}
    wrong = [f"`{k}` must be text" for k, v in told.items() if not isinstance(v, str)]
    if wrong or not told["decision"].strip():
        return None, wrong
    told = {k: v.strip() for k, v in told.items()}
    if told["decision"] not in DECISIONS:
        wrong.append(f"`decision` is {told['decision']!r}, not one of {', '.join(DECISIONS)}")
    if told["id"] not in known:
        wrong.append(f"there is no row {told['id']!r} to decide")
    if not told["reviewer"]:
        wrong.append("`reviewer` is missing")
    if told["decision"] == "relabel":
        if not told["label"]:
            wrong.append("the right answer is missing")
        elif task.spec.labels and told["label"] not in task.spec.labels:
            wrong.append(
                f"{told['label']!r} is no label of this task; {nearest_label(told['label'], task.spec.labels)}"
            )
    else:
        told["label"] = ""
    return (None if wrong else {k: v for k, v in told.items() if v}), wrong


def synthetic_desk(task: Task, rows: Sequence[Mapping[str, Any]]) -> Desk:
    """Synthetic rows that wait for a decision; rows: the lines of the data report's to_review.jsonl."""
    known = {str(row["id"]): row for row in rows}
    return Desk(
        f"Synthetic rows: {task.name}",
        "A model wrote these examples. Keep what is right and true to life, drop what is not, or give the right answer.",
        "Is this example right, and true to life?",
        f"{task.name}-synthetic",
        "rows",
        _ROW_CHOICES,
        [
            {
                "id": str(row["id"]),
                "blocks": [
                    {"title": f"Input (written by {row.get('generator', 'unknown')})", "text": row["text"]},
                    {"title": "Answer", "text": row["answer"]},
                ],
            }
            for row in rows
        ],
        lambda row: _decision(row, task, known),
        lambda rater: task.folder / "reviews" / f"synthetic-{safe_name(rater)}.jsonl",
        [
            {k: str(row.get(k) or "") for k in ("id", "text", "answer", "decision", "label", "reviewer", "comment")}
            for row in rows
        ],
        answers=task.spec.labels,
    )


def flagged_desk(task: Task, rows: Sequence[Mapping[str, Any]]) -> Desk:
    """Production rows that wait for people; rows: of production.choosing's queue, with `why`.

    What is decided becomes feedback: a line of the logs with the same id and the correction, or that the row is left out,
    which the next run takes in.
    """
    known = {str(row["id"]): row for row in rows}

    def take(row: Any) -> Parsed:
        told, wrong = _decision(row, task, known)
        if told is None:
            return None, wrong
        logged = known[told["id"]]
        right = told["label"] if told["decision"] == "relabel" else logged["output"].strip()
        said: dict[str, Any] = {"flag": logged["flag"], "correction": right}
        if told["decision"] == "drop":
            said = {"left_out": True}
        elif task.spec.labels and right not in task.spec.labels:
            return None, [f"what was answered, {right!r}, is no label of this task: give another answer"]
        return {
            "id": logged["id"],
            "timestamp": logged["timestamp"],
            "model_version": logged["model_version"],
            "input": logged["input"],
            "output": logged["output"],
            "feedback": said,
            "metadata": {"reviewer": told["reviewer"], "time": told.get("time") or datetime.now(UTC).isoformat()},
        }, []

    return Desk(
        f"Answers of production: {task.name}",
        "Answers of production that failed, were drawn as a sample, or whose correction is held back. Say what the right one "
        "is: it becomes a training example.",
        "Is this answer of production right?",
        f"{task.name}-flagged",
        "rows",
        _FLAG_CHOICES,
        [
            {
                "id": str(row["id"]),
                "blocks": [
                    {"title": f"Input ({row['why']})", "text": row["input"]},
                    {"title": f"Answer of {row['model_version']}", "text": row["output"]},
                    *([{"title": "Proposed correction", "text": row["correction"]}] if row["correction"] else []),
                ],
            }
            for row in rows
        ],
        take,
        lambda rater: task.folder / OWN_FOLDER / f"reviewed-{safe_name(rater)}.jsonl",
        [
            {"id": str(r["id"]), "text": r["input"], "answer": r["output"], "decision": "", "label": "", "reviewer": ""}
            for r in rows
        ],
        answers=task.spec.labels,
    )


def write_table(desk: Desk, path: Path) -> None:
    """The sheet as a file to fill in: CSV (for spreadsheets) or JSON Lines, by the suffix. Raises ValueError for others.

    A cell that a spreadsheet would take for a formula is written with an apostrophe in front.
    """
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in desk.table), "utf-8")
    elif path.suffix == ".csv":
        told = io.StringIO()
        writer = csv.DictWriter(told, fieldnames=list(desk.table[0]) if desk.table else ["id"])
        writer.writeheader()
        for row in desk.table:
            writer.writerow({k: f"'{v}" if v[:1] in ("=", "+", "-", "@") else v for k, v in row.items()})
        path.write_text("\ufeff" + told.getvalue(), "utf-8", newline="")
    else:
        raise ValueError(f"{path.name}: a sheet is written as .csv or .jsonl")


def read_table(desk: Desk, path: Path) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """A file that came back: (rows to store by rater, what is wrong, with its line). Nothing good is lost for a bad line.

    Raises ValueError for a file that is neither CSV nor JSON Lines.
    """
    text = path.read_text("utf-8-sig")
    rows: list[tuple[int, Any]] = []
    wrong: list[str] = []
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows = [(reader.line_num, row) for row in reader]
    elif path.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    rows.append((number, json.loads(line)))
                except ValueError as error:
                    wrong.append(f"{path.name}, line {number}: it is no JSON: {error}")
    else:
        raise ValueError(f"{path.name}: sheets come back as .csv or .jsonl")
    by_rater, refused = judge(desk, ((f"{path.name}, line {number}", row) for number, row in rows))
    return by_rater, wrong + refused


def judge(desk: Desk, lines: Iterable[tuple[str, Any]]) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """(rows to store by rater, what is wrong with its place). lines: (place, line). Nothing good is lost for a bad line."""
    by_rater: dict[str, list[dict[str, Any]]] = {}
    wrong: list[str] = []
    for place, line in lines:
        told, reasons = desk.take(line)
        wrong += [f"{place}: {reason}" for reason in reasons]
        if told is not None:
            by_rater.setdefault(str(line.get("rater") or line.get("reviewer")), []).append(told)
    return by_rater, wrong
