"""Review queues: answers of two models, and rows of data. A queue contains the items to show, validates returned lines, and names
the file of the task folder that stores them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from finetune_pipeline.data.examples import Example, Message
from finetune_pipeline.data.quality.noise import Suspect
from finetune_pipeline.data.review import RATINGS, SECOND_STAGE, read_decision
from finetune_pipeline.evaluation.wording import percent
from finetune_pipeline.report.page import html_templates
from finetune_pipeline.review.ratings import COLUMNS, parse_rating
from finetune_pipeline.review.sheet import SheetItem
from finetune_pipeline.spec.model import Task

Parsed = tuple[dict[str, Any] | None, list[str]]
Row = Mapping[str, Any]


class Choice(TypedDict):
    """A possible decision.

    Attributes:
        key: On the keyboard; empty if it has none.
        answer, reason: Whether an answer must be given, or why there is none.
    """

    value: str
    label: str
    key: str
    answer: NotRequired[bool]
    reason: NotRequired[bool]


class Block(TypedDict):
    """A text under its title."""

    title: str
    text: str


class PageItem(TypedDict):
    """What the page shows of one row.

    Attributes:
        sides: Two answers, side by side.
        choices: Of this row, instead of the queue's.
        again: The time of the last decision of a row that is open again.
    """

    id: str
    blocks: list[Block]
    sides: NotRequired[list[Block]]
    choices: NotRequired[list[Choice]]
    again: NotRequired[str]


def choices(**labels: str) -> list[Choice]:
    """Return decisions with their labels, in order of their keys 1, 2, …; `relabel` needs another answer."""
    listed: list[Choice] = []
    for key, (value, label) in enumerate(labels.items(), 1):
        listed.append({"value": value, "label": label, "key": str(key)})
        if value == "relabel":
            listed[-1]["answer"] = True
    return listed


_BLIND = "Which model wrote which is hidden, and changes from item to item."
_QUESTIONS = {
    RATINGS: (
        f"Two answers to the same input. Which of them would you accept? {_BLIND}",
        choices(A="only A is acceptable", B="only B is acceptable", both="both are", neither="neither is"),
    ),
    SECOND_STAGE: (
        f"Two answers to the same input. Which of them is better? {_BLIND}",
        choices(A="A is better", B="B is better", both="equally good", neither="neither is acceptable"),
    ),
}
"""What is asked about two answers, by the folder of reviews: text, and possible ratings."""
_ROW_CHOICES = choices(keep="keep", drop="drop", relabel="another answer")


@dataclass(frozen=True)
class ReviewQueue:
    """Items that wait for people's decisions.

    Attributes:
        sheet: Name under which browsers keep the decisions.
        mode: `outputs` (two answers side by side), `rows`, or `people` (rows without an answer).
        take: Validates one returned line. Returns the row to store, or the problems; neither if nothing was decided.
        target: The file for a rater's decisions.
        table: The rows of a sheet to fill in as a file.
        answers: The labels allowed as another answer.
        done: Rows of earlier decisions, to continue from.
        reveal: What the page says of a stored decision.
    """

    title: str
    intro: str
    sheet: str
    mode: str
    choices: Sequence[Choice]
    items: Sequence[PageItem]
    take: Callable[[Any], Parsed]
    target: Callable[[str], Path]
    table: Sequence[Mapping[str, str]]
    answers: Sequence[str] | None = None
    done: Sequence[Row] = field(default_factory=list)
    reveal: Callable[[Any], str] = lambda row: ""

    def page(self, rater: str = "", server: bool = False) -> str:
        """Return the page, for a server or to give to people as a file."""
        names = ("sheet", "mode", "choices", "items", "done")
        data = {name: getattr(self, name) for name in names} | {"file": self.target("RATER").name}
        data |= {"rater": rater, "server": server}
        template = html_templates().get_template("review.html")
        return template.render(title=self.title, intro=self.intro, data=data, answers=self.answers)


def safe_name(rater: str) -> str:
    """Return a rater's name with only characters that are safe in file names."""
    return "".join(c if c.isalnum() or c in "_-" else "-" for c in rater)[:60] or "somebody"


def page_item(name: object, *blocks: tuple[str, str]) -> PageItem:
    """Return an item with these titles and texts."""
    return {"id": str(name), "blocks": [{"title": title, "text": text} for title, text in blocks]}


def outputs_queue(
    task: Task, sheet: str, items: Sequence[SheetItem], done: Sequence[Row] = (), folder: str = RATINGS
) -> ReviewQueue:
    """Return the queue of a sheet of two models' answers. done: the ratings given already; folder: of reviews, for the ratings."""
    known_ids = {item.id for item in items}
    question, possible = _QUESTIONS[folder]

    def take(row: Any) -> Parsed:
        rating, problems = parse_rating(row)
        if rating and rating.sheet != sheet:
            problems = [f"it belongs to the sheet {rating.sheet}, not to {sheet}"]
        elif rating and rating.id not in known_ids:
            problems = [f"the sheet has no item {rating.id!r}"]
        return (rating.to_dict() if rating and not problems else None), problems

    return ReviewQueue(
        title=f"Review: {task.name}",
        intro=question,
        sheet=sheet,
        mode="outputs",
        choices=possible,
        items=[
            {
                **page_item(item.id, ("Input", item.text), ("Reference answer", item.reference)),
                "sides": [{"title": "A", "text": item.a}, {"title": "B", "text": item.b}],
            }
            for item in items
        ],
        take=take,
        target=lambda rater: task.folder / "reviews" / folder / f"{sheet}-{safe_name(rater)}.jsonl",
        table=[
            dict.fromkeys(COLUMNS, "")
            | {
                "sheet": sheet,
                "id": item.id,
                "text": item.text,
                "reference": item.reference,
                "answer_a": item.a,
                "answer_b": item.b,
            }
            for item in items
        ],
        done=done,
    )


def parse_decision(row: Any, task: Task, known: Mapping[str, object]) -> Parsed:
    """Validate a returned decision about a row. known: the rows that may be decided, by id. Returns as `ReviewQueue.take`."""
    if not isinstance(row, Mapping):
        return None, ["it is not an object"]
    keys = ("id", "decision", "label", "reviewer", "comment", "time")
    decision = {k: v.strip() if isinstance(v, str) else v for k in keys if (v := row.get(k))}
    if not decision.get("decision"):
        return None, []
    problems = [f"{f.message}: {f.fix}" for f in read_decision(decision, task.spec, "")[1]]
    if str(decision.get("id")) not in known:
        problems.append(f"there is no row {decision.get('id')!r} to decide")
    if decision["decision"] != "relabel":
        decision.pop("label", None)
    return (None if problems else decision), problems


def synthetic_queue(task: Task, rows: Sequence[Row], earlier: Iterable[Row] = ()) -> ReviewQueue:
    """Return the queue of synthetic rows that wait for a decision; rows: the lines of the data report's to_review.jsonl;
    earlier: those of earlier reports, for which decisions may still be returned."""
    known_rows = {str(row["id"]): row for row in (*earlier, *rows)}
    items = [
        page_item(
            row["id"],
            (f"Input (written by {row.get('generator', 'unknown')})", row["text"]),
            ("Answer", row["answer"]),
        )
        for row in rows
    ]
    intro = "A model wrote these examples. Keep what is correct and realistic, drop what is not, or give the correct answer."
    return _data_queue(task, "synthetic", f"Synthetic rows: {task.name}", intro, items, rows, known_rows)


def suspects_queue(task: Task, suspects: Sequence[Suspect], rows: Mapping[str, Example]) -> ReviewQueue:
    """Return the queue of labels in doubt. suspects: of the data report's part on noise. rows: those of training and validation,
    by id, which may be decided."""
    items = [
        page_item(
            suspect.id,
            (f"Input ({rows[suspect.id].place})", conversation(rows[suspect.id].prompt_messages, task)),
            ("Label in the data", suspect.given),
            (f"A simple model expects ({percent(suspect.confidence)} sure)", suspect.suggested),
        )
        for suspect in suspects
    ]
    shown = [{"id": s.id, "text": rows[s.id].user_text, "answer": s.given} for s in suspects]
    intro = (
        "A simple model that did not see these rows expects another label, most surely for the first. Keep a label that is right: "
        "hard rows look like wrong ones."
    )
    return _data_queue(task, "suspects", f"Labels in doubt: {task.name}", intro, items, shown, rows)


def rows_queue(task: Task, sample: Sequence[Example], rows: Mapping[str, Example]) -> ReviewQueue:
    """Return the queue of rows as they were read. rows: those of training and validation, by id, which may be decided."""
    items = [
        page_item(e.id, (f"Input ({e.place})", conversation(e.prompt_messages, task)), ("Answer to learn", e.answer))
        for e in sample
    ]
    shown = [{"id": e.id, "text": e.user_text, "answer": e.answer} for e in sample]
    intro = (
        "Rows of training and validation, drawn at random, as they were read: fields, scrubbing and all. Is the answer what the "
        "model should learn? Rows of the sealed test are not shown."
    )
    return _data_queue(task, "rows", f"Rows as read: {task.name}", intro, items, shown, rows)


def conversation(messages: Sequence[Message], task: Task) -> str:
    """Return the user's text; of a longer conversation or one with a system prompt of its own, all turns with their roles."""
    turns = [m for m in messages if m != {"role": "system", "content": task.spec.system_prompt}]
    if len(turns) == 1 and turns[0]["role"] == "user":
        return str(turns[0]["content"])
    return "\n\n".join(f"{turn['role']}: {turn.get('content') or ''}" for turn in turns)


def _data_queue(
    task: Task,
    what: str,
    title: str,
    intro: str,
    items: Sequence[PageItem],
    rows: Sequence[Row],
    known: Mapping[str, object],
) -> ReviewQueue:
    """Return a queue of rows of data, whose decisions the next run applies. known: the rows that may be decided, by id."""
    return ReviewQueue(
        title=title,
        intro=intro,
        sheet=f"{task.name}-{what}",
        mode="rows",
        choices=_ROW_CHOICES,
        items=items,
        take=lambda row: parse_decision(row, task, known),
        target=lambda rater: task.folder / "reviews" / f"{what}-{safe_name(rater)}.jsonl",
        table=[
            {k: str(row.get(k) or "") for k in ("id", "text", "answer", "decision", "label", "reviewer", "comment")}
            for row in rows
        ],
        answers=task.spec.labels,
    )
