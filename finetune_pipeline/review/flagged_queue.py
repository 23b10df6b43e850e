"""The queue of production rows: flagged ones, a sample of the others, and those that two models answered differently.

In free text, two different answers may both be right. There a reviewer says which one is better, and does not see whose it is: the
secret and the row's id decide which comes first.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from finetune_pipeline.data.review import read_decision
from finetune_pipeline.evaluation.production_rows import LoggedRow
from finetune_pipeline.production.choosing import DIFFERS
from finetune_pipeline.production.log_files import OWN_FOLDER
from finetune_pipeline.production.shadow_rows import Preferred, is_decidable, shadow_of
from finetune_pipeline.review.queues import (
    PageItem,
    Parsed,
    ReviewQueue,
    choices,
    conversation,
    page_item,
    parse_decision,
    safe_name,
)
from finetune_pipeline.review.sheet import candidate_is_a, shown_text
from finetune_pipeline.spec.model import Task

_CHOICES = choices(keep="the answer is correct", relabel="another answer", drop="leave it out")
FIRST, SECOND, EQUAL, NEITHER = "first", "second", "equal", "neither"
_PREFERENCES = choices(
    first="the first is better", second="the second is better", equal="equally good", neither="neither is acceptable"
)


class WaitingRow(LoggedRow):
    """A production row that waits for a person. why: of production.choosing's queue."""

    why: str


def flagged_queue(
    task: Task, rows: Sequence[WaitingRow], secret: bytes, logged: Iterable[LoggedRow] = ()
) -> ReviewQueue:
    """Return the queue of production rows for human review (production.choosing's queue). A decision becomes
    feedback for the next run: a log line with the same id and the correction, with `left_out`, or with `preferred`.

    Args:
        secret: Decides which of two answers is shown first.
        logged: All production rows, since a sheet may be returned, again or by a second reviewer, when its rows no longer wait.
    """
    known_rows: dict[str, LoggedRow] = {str(row["id"]): row for row in (*logged, *rows)}
    compared = {str(row["id"]) for row in rows if row["why"] == DIFFERS and not is_decidable(task.spec.output)}

    def take(row: Any) -> Parsed:
        if isinstance(row, Mapping) and row.get("decision") in (FIRST, SECOND, EQUAL, NEITHER):
            return _preference(row, task, known_rows, secret)
        decision, problems = parse_decision(row, task, known_rows)
        if decision is None:
            return None, problems
        if decision["id"] in compared:
            return None, [f"of two answers, `decision` is {FIRST}, {SECOND}, {EQUAL} or {NEITHER}"]
        logged_row = known_rows[decision["id"]]
        correct_answer = decision["label"] if decision["decision"] == "relabel" else logged_row["output"].strip()
        feedback: dict[str, object] = {"correction": correct_answer}
        if decision["decision"] == "drop":
            feedback = {"left_out": True}
        elif task.spec.labels and correct_answer not in task.spec.labels:
            return None, [f"the logged answer {correct_answer!r} is not a label of this task: give another answer"]
        return _feedback_line(logged_row, feedback, decision, task), []

    intro = (
        "Answers that users complained about, that were passed on or drawn at random, to which another model answered "
    )
    intro += "differently, or whose correction is held back. Give the correct answer: it becomes a training example."
    if compared:
        intro += (
            " Of two answers side by side, say which is better; whose they are is hidden, and changes from row to row."
        )
    return ReviewQueue(
        title=f"Production answers: {task.name}",
        intro=intro,
        sheet=f"{task.name}-flagged",
        mode="rows",
        choices=_CHOICES,
        items=[
            _pair_item(row, task, secret) if row["id"] in compared else _answer_item(row, task, is_named=not compared)
            for row in rows
        ],
        take=take,
        target=lambda rater: task.folder / OWN_FOLDER / f"reviewed-{safe_name(rater)}.jsonl",
        table=[
            {"id": str(row["id"]), "text": row["input"]}
            | (
                dict(zip((FIRST, SECOND), _both_answers(row, secret), strict=True))
                if row["id"] in compared
                else {"answer": row["output"]}
            )
            | dict.fromkeys(("decision", "label", "reviewer"), "")
            for row in rows
        ],
        answers=task.spec.labels,
    )


def _answer_item(row: WaitingRow, task: Task, is_named: bool) -> PageItem:
    """Return the item of a row whose right answer is asked for. is_named: whether it says which version answered: it does not on a
    page that also compares answers, which a version's other answers could give away."""
    blocks = [
        (f"Input ({row['why']})", row["input"]),
        (f"Answer of {row['model_version']}" if is_named else "Answer", row["output"]),
    ]
    if row.get("shadow") and is_decidable(task.spec.output):
        shadow = row["shadow"]
        title = f"Answer of {shadow['model_version']}, which nobody got"
        blocks.append((title, shadow["output"] or "none: it failed"))
    if row["correction"]:
        blocks.append(("Proposed correction", row["correction"]))
    return page_item(row["id"], *blocks)


def _pair_item(row: WaitingRow, task: Task, secret: bytes) -> PageItem:
    """Return the item of a row whose two answers are compared."""
    turns = row["turns"] or [{"role": "user", "content": row["input"]}]
    titles = ("The first answer", "The second answer")
    item = page_item(row["id"], ("Input", conversation(turns, task)))
    item["sides"] = [
        {"title": title, "text": text} for title, text in zip(titles, _both_answers(row, secret), strict=True)
    ]
    item["choices"] = _PREFERENCES
    return item


def _both_answers(row: LoggedRow, secret: bytes) -> list[str]:
    """Return the two answers in the order in which they are shown."""
    shadow = shadow_of(row)
    assert shadow is not None
    texts = [shown_text(shadow.champion_output), shown_text(shadow.output)]
    return texts[::-1] if _champion_is_second(row, secret) else texts


def _champion_is_second(row: LoggedRow, secret: bytes) -> bool:
    shadow = shadow_of(row)
    return shadow is not None and candidate_is_a(secret, " ".join(shadow.pair), str(row["id"]))


def _preference(row: Mapping[str, object], task: Task, known: Mapping[str, LoggedRow], secret: bytes) -> Parsed:
    """Validate a returned comparison of two answers. Returns as `ReviewQueue.take`."""
    decision, problems = parse_decision({**row, "decision": "keep"}, task, known)
    if decision is None:
        return None, problems
    logged_row, said = known[decision["id"]], str(row["decision"])
    shadow = shadow_of(logged_row)
    if shadow is None or is_decidable(task.spec.output):
        return None, [f"`decision` is {said!r}, but row {decision['id']!r} has no two answers to compare"]
    order = ["shadow", "champion"] if _champion_is_second(logged_row, secret) else ["champion", "shadow"]
    choice = {FIRST: order[0], SECOND: order[1]}.get(said, said)
    preferred = msgspec.convert(
        {"champion": shadow.champion, "model_version": shadow.model_version, "choice": choice}, Preferred
    )
    return _feedback_line(logged_row, {"preferred": msgspec.structs.asdict(preferred)}, decision, task), []


def _feedback_line(
    row: LoggedRow, feedback: dict[str, object], decision: Mapping[str, object], task: Task
) -> dict[str, object]:
    """Return the log line of a decision. feedback: what was decided."""
    parsed, _ = read_decision({**decision}, task.spec, "")
    if parsed and decision.get("time"):
        feedback = feedback | {"decided": parsed.time.isoformat()}
    logged_line = {key: row[key] for key in ("id", "timestamp", "model_version", "input", "output")}
    return logged_line | {"feedback": feedback, "metadata": {"reviewer": decision["reviewer"]}}
