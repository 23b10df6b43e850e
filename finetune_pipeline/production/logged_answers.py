"""Answers of a teacher that production logs hold (`teacher.from_logs`): read, counted by reason, and joined by question."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from finetune_pipeline.data.dedup.text_similarity import loose_form
from finetune_pipeline.data.examples import Example, Message, example_id
from finetune_pipeline.data.people import LogSource, PeopleAnswers, read_people
from finetune_pipeline.engine.files import digest_json
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.production_rows import LoggedRow, logged_example
from finetune_pipeline.findings import Finding, FindingsError, listed
from finetune_pipeline.production.choosing import REFUSAL, failure
from finetune_pipeline.production.key_binding import bound_key
from finetune_pipeline.production.log_intake import LOCK
from finetune_pipeline.production.log_store import ForgottenList, log_store
from finetune_pipeline.spec.model import Task, TaskSpec

CORRECTED, LEFT_OUT, OBJECTED, JUDGES = "corrected", "left_out", "objected", "judges"
"""Reasons why an answer is no teacher's row: a person corrected an answer to the question, left the row out, objected to the
answer, or answered the question for test and validation."""


class LoggedAnswer(msgspec.Struct, frozen=True):
    """A teacher's answer in the logs.

    Attributes:
        log: Id of the log row.
        question: Its text in a form in which case, blanks and punctuation do not count; see :func:`question_of`.
        answer, model: The text, and the name of the model that wrote it.
        reason: Why it is no training row: CORRECTED, LEFT_OUT, OBJECTED, JUDGES; empty if it may be one.
    """

    log: str
    question: str
    answer: str
    model: str
    reason: str = ""


def question_of(messages: Sequence[Message]) -> str:
    """Return the text of all turns but the system's and a last answer, in a form in which small differences do not count."""
    turns = [m for m in messages if m["role"] != "system"]
    if turns and turns[-1]["role"] == "assistant":
        turns.pop()
    return loose_form("\n".join(m["content"] for m in turns))


def author_of(row: Mapping[str, object]) -> str:
    """Return the name of the model that wrote a logged answer; of a declared refusal, that of the model behind it."""
    answered_by = row.get("answered_by")
    return str(row["model_version"] if answered_by in (None, REFUSAL) else answered_by)


def questions_by_people(task: Task) -> set[str]:
    """Return the questions that people have answered for test and validation, with one accord."""
    return {question_of(line.messages) for line in read_people(task.folder, task.spec).settled(task.spec)}


def logged_answers(spec: TaskSpec, rows: Iterable[LoggedRow], by_people: Collection[str] = ()) -> list[LoggedAnswer]:
    """Return the answers of `teacher.models` in production rows, in the rows' order. An answer to a question that a person has
    corrected anywhere in the logs is CORRECTED. by_people: :func:`questions_by_people`, to which answers are JUDGES."""
    assert spec.teacher is not None
    rows, models = list(rows), {*spec.teacher.models}
    corrected = {_question(spec, row) for row in rows if row["correction"]}

    def reason_of(row: LoggedRow, question: str) -> str:
        if question in by_people:
            return JUDGES
        if question in corrected:
            return CORRECTED
        if row["left_out"]:
            return LEFT_OUT
        return OBJECTED if failure(row, spec) else ""

    return [
        LoggedAnswer(row["id"], question := _question(spec, row), row["output"], author, reason_of(row, question))
        for row in rows
        if (author := author_of(row)) in models
    ]


def logged_digest(spec: TaskSpec, rows: Iterable[LoggedRow], by_people: Collection[str] = ()) -> str:
    """Return a digest of the teacher's answers in production rows, independent of those of other models. by_people: as for
    :func:`logged_answers`.

    Raises FindingsError if the logs hold none, naming the models that they hold.
    """
    assert spec.teacher is not None
    rows = list(rows)
    answers = logged_answers(spec, rows, by_people)
    if not answers:
        names = Counter(map(author_of, rows))
        held = listed([f"{name} ({n:,} rows)" for name, n in names.most_common()], 5)
        message = f"no row of the logs is an answer of {spec.teacher.name}; they hold {held or 'no answers'}"
        fix = "correct teacher.models, or put the log files into the task's logs/"
        raise FindingsError([Finding("teacher.no_logged_answers", "error", "task.yaml: teacher.models", message, fix)])
    return digest_json([msgspec.to_builtins(answer) for answer in answers])


def distinct_questions(spec: TaskSpec, rows: Iterable[LoggedRow], answers: Iterable[LoggedAnswer]) -> list[Example]:
    """Return the distinct questions of answers, as examples that end with the user's turn, in the order of their first answer. Each
    has a tag ``log:<id>`` for every answer's row; its text is that of the first one."""
    by_id, logs = {row["id"]: row for row in rows}, dict[str, list[str]]()
    for answer in answers:
        logs.setdefault(answer.question, []).append(answer.log)
    examples = []
    for ids in logs.values():
        messages = logged_example(spec, by_id[ids[0]], "").prompt_messages
        tags = [f"log:{name}" for name in ids]
        examples.append(Example(example_id(messages), messages, source=by_id[ids[0]]["source"], tags=tags))
    return examples


def questions_to_judge(
    spec: TaskSpec, rows: Sequence[LoggedRow], people: PeopleAnswers
) -> tuple[list[Example], dict[str, str]]:
    """Return (the questions that the teacher has answered in production rows, its first answer to each by the question's id).

    Those it answered wrongly are among them: without them a random sample would flatter the teacher. A question that somebody has
    answered has the id and the text of then.
    """
    answers = [answer for answer in logged_answers(spec, rows) if answer.reason != LEFT_OUT]
    earlier = {question_of(line.messages): line for lines in people.by_row.values() for line in lines.values()}
    said = {answer.question: answer.answer.strip() for answer in reversed(answers)}
    questions, said_by_id = [], {}
    for example in distinct_questions(spec, rows, answers):
        question = question_of(example.messages)
        if line := earlier.get(question):
            tags = [f"log:{line.log.id}"] if line.log else []
            questions.append(msgspec.structs.replace(example, id=line.id, messages=line.messages, tags=tags))
        else:
            questions.append(example)
        said_by_id[questions[-1].id] = said[question]
    return questions, said_by_id


def log_sources(
    task: Task, store: ArtifactStore, rows: Iterable[LoggedRow], people: PeopleAnswers
) -> Callable[[Example], LogSource | None]:
    """Return a function that says which log row an example's question is from: the first that its tags name. It raises LookupError
    if the row was forgotten, even a moment ago.

    rows: of the logs. people: earlier answers, whose log rows may have expired.
    """
    sources = {line.log.id: line.log for lines in people.by_row.values() for line in lines.values() if line.log}
    sources |= {row["id"]: LogSource(row["id"], row["user"]) for row in rows}

    def source_of(example: Example) -> LogSource | None:
        name = next((tag.removeprefix("log:") for tag in example.tags if tag.startswith("log:")), None)
        if name is None:
            return None
        with store.lock(task.name, LOCK):
            forgotten = ForgottenList(log_store(task, store).folder, bound_key(task, store))
        if forgotten.holds_source(sources[name]):
            raise LookupError("this row was forgotten meanwhile: load the page again")
        return sources[name]

    return source_of


def _question(spec: TaskSpec, row: LoggedRow) -> str:
    return question_of(logged_example(spec, row, "").messages)
