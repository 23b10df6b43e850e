"""The queue of rows that people answer without seeing the teacher's answer: they become test and validation."""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

import msgspec

from finetune_pipeline.data.answer_equality import same_answer
from finetune_pipeline.data.examples import Example, hash_order
from finetune_pipeline.data.people import PEOPLE, LogSource, PeopleAnswers, PersonAnswer, person_answer, read_people
from finetune_pipeline.evaluation.reviewers import agreement_sentence, reviewers_agreement
from finetune_pipeline.evaluation.wording import counted
from finetune_pipeline.planning.power import power_bounds
from finetune_pipeline.review.queues import (
    Choice,
    PageItem,
    Parsed,
    ReviewQueue,
    Row,
    conversation,
    page_item,
    safe_name,
)
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline.spec.outputs import JsonOutput

SHARED_EVERY = 5
"""Every fifth row is shown to all reviewers, for their agreement."""


def people_queue(
    task: Task,
    rows: Sequence[Example],
    people: PeopleAnswers,
    teacher: Mapping[str, str],
    rater: str,
    items: int,
    source_of: Callable[[Example], LogSource | None] = lambda row: None,
) -> ReviewQueue:
    """Return the queue of a reviewer: unsettled rows of theirs, then rows in random order that nobody decided, or that are shared
    and this reviewer has not decided.

    teacher: its answers by row, which are shown only after a person's answer is stored. source_of: where a row of the logs is from.
    Raises LookupError if it was forgotten meanwhile.
    """
    order = sorted(rows, key=lambda row: (hash_order(row.id, PEOPLE), row.id))
    known = {row.id: row for row in order}
    unsettled = [name for name in people.unsettled(task.spec) if name in known and rater in people.by_row[name]]
    waiting = [
        row.id
        for place, row in enumerate(order)
        if not (deciders := people.by_row.get(row.id, {})) or (place % SHARED_EVERY == 0 and rater not in deciders)
    ]
    shown = [*unsettled, *waiting][:items]

    def take(value: Any) -> Parsed:
        if not isinstance(value, Mapping):
            return None, ["it is not an object"]
        if not value.get("decision"):
            return None, []
        row = known.get(str(value.get("id")))
        if row is None:
            return None, [f"there is no row {value.get('id')!r} to answer"]
        try:
            source = source_of(row)
        except LookupError as error:
            return None, [str(error)]
        keys = ("id", "decision", "answer", "reviewer", "comment", "time")
        line = {key: str(value[key]).strip() for key in keys if value.get(key)} | {"messages": row.messages}
        line |= {"log": msgspec.to_builtins(source)} if source else {}
        answer, problems = person_answer(line, task.spec)
        if answer and (shown := seen_before(answer)):
            return None, [shown]
        return (line if answer else None), problems

    def seen_before(line: PersonAnswer) -> str:
        """Return why an answer comes too late: the same person's first one stands, and the teacher's was shown after it."""
        stored = read_people(task.folder, task.spec)
        first = stored.by_row[line.id].get(line.reviewer)
        if (
            first is None
            or first.decision == "skip"
            or line.id not in teacher
            or line.id in stored.unsettled(task.spec)
        ):
            return ""
        if line.decision == "answer" and same_answer(first.answer, line.answer, task.spec.output):
            return ""
        return (
            f"your answer {first.answer!r} counts, since the teacher's was shown after it; if it was a slip, correct the line in "
            f"{PEOPLE}/"
        )

    def reveal(line: Row) -> str:
        said = teacher.get(line["id"])
        if said is None or line["decision"] == "skip" or same_answer(said, line["answer"], task.spec.output):
            return ""
        return f"{said}\n\nYour answer is stored and counts: {line['answer']}"

    labels = task.spec.labels
    choices: list[Choice] = [
        {"value": f"is {label}", "label": label, "key": str(key) if key < 10 else ""}
        for key, label in enumerate(labels, 1)
    ] or [{"value": "answer", "label": "answer", "key": "1", "answer": True}]
    choices.append({"value": "skip", "label": "cannot be answered", "key": "0", "reason": True})
    return ReviewQueue(
        title=f"Rows for test and validation: {task.name}",
        intro=f"Give the right answer to each row{_fields(task.spec)}. Where the teacher answers otherwise, its answer is shown "
        "once yours is stored, which then counts. If a row cannot be answered, say why in the comment. "
        f"{progress(people, task.spec)}",
        sheet=f"{task.name}-test",
        mode="people",
        choices=choices,
        items=[_item(known[name], task, people) for name in shown],
        take=take,
        target=lambda name: task.folder / PEOPLE / f"{safe_name(name)}.jsonl",
        table=[
            {"id": name, "text": known[name].user_text}
            | dict.fromkeys(("decision", "answer", "reviewer", "comment"), "")
            for name in shown
        ],
        answers=None if labels else [],
        reveal=reveal,
    )


def _item(row: Example, task: Task, people: PeopleAnswers) -> PageItem:
    """Return what the page shows of a row. Of a row that people decided in different ways, their decisions, and when the last one
    was made (`again`): since then the row is open again."""
    question = ("Input", conversation(row.messages, task))
    if row.id not in people.unsettled(task.spec):
        return page_item(row.id, question)
    lines = [line for _, line in sorted(people.by_row[row.id].items())]
    decisions = "\n".join(f"{line.reviewer}: {line.answer or f'cannot be answered: {line.comment}'}" for line in lines)
    item = page_item(row.id, question, ("Decided differently; agree on one answer", decisions))
    item["again"] = max(line.time for line in lines)
    return item


def _fields(spec: TaskSpec) -> str:
    """Say which fields an answer in JSON has, as its schema declares them; empty for other answers."""
    schema = spec.output.json_schema if isinstance(spec.output, JsonOutput) else None
    if not isinstance(schema, dict) or not (names := list(schema.get("properties", {}))):
        return ""
    needed = [name for name in names if name in schema.get("required", [])]
    optional = [name for name in names if name not in needed]
    parts = [", ".join(needed), f"if any, {', '.join(optional)}" if optional else ""]
    return f", as JSON with {' and, '.join(filter(None, parts))}"


def rows_wanted(spec: TaskSpec) -> int:
    """Return how many rows people should answer: the fewest test rows that may show the wanted gain, and validation rows in the
    proportion of the split."""
    test = power_bounds(spec, 0).fewest
    share = spec.split.test_share
    return test if not share else ceil(test * (1 + spec.split.validation / share))


def progress(people: PeopleAnswers, spec: TaskSpec) -> str:
    """Say how many rows are answered, how many are wanted, and how far reviewers agree."""
    settled, wanted = len(people.settled(spec)), rows_wanted(spec)
    sentence = f"{settled:,} of at least {wanted:,} rows are answered"
    if unsettled := people.unsettled(spec):
        sentence += f", {counted(len(unsettled), 'row')} decided differently by two people"
    if skipped := people.skipped():
        sentence += f", {len(skipped):,} skipped"
    agreement = reviewers_agreement(people, spec)
    return f"{sentence}. {agreement_sentence(agreement)}" if agreement else f"{sentence}."
