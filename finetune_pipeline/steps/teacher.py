"""DATA: rows without an answer, and the answers that the teacher of task.yaml gives to them, or gave to them in the logs."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec

from finetune_pipeline.data.answer_equality import answer_key
from finetune_pipeline.data.dedup.near_duplicates import near_duplicate_clusters
from finetune_pipeline.data.examples import Example, read_examples, write_examples
from finetune_pipeline.data.json_lines import read_rows, write_rows
from finetune_pipeline.data.unlabelled import answered_by_people, read_unlabelled, spread, unlabelled_digest
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.files import digest_json
from finetune_pipeline.engine.step import StepContext, no_tool
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.evaluation.call_ledger import CallLedger, TokenPrice
from finetune_pipeline.evaluation.production_rows import read_logged_rows
from finetune_pipeline.evaluation.sealed_answers import SealedAnswers
from finetune_pipeline.evaluation.teacher import Agreed, Bought, agreed, agreed_texts, ask_teacher
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.planning.prices import load_prices, newest_price
from finetune_pipeline.production.logged_answers import (
    LoggedAnswer,
    distinct_questions,
    logged_answers,
    logged_digest,
    question_of,
    questions_by_people,
)
from finetune_pipeline.production.used_rows import LOGGED_ANSWERS
from finetune_pipeline.report.stored import Evaluated
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline.spec.teacher import TEACHER_GENERATOR, TeacherSpec

ROWS, ANSWERS, TEACHER_ROWS = "rows.jsonl", "answers.jsonl", "examples.jsonl"
"""Files: the rows to ask; the teacher's answers to each (Agreed); the rows that are kept, as examples."""
LEDGER, TEST_LEDGER = "teacher_calls.sqlite", "teacher_test_calls.sqlite"
NO_TEACHER = "no teacher is declared"


class UnlabelledRows(Facts, frozen=True, kw_only=True):
    """Facts of unlabelled_rows. Always rows_in == kept + quarantined + repeats.

    Attributes:
        rows_in: Rows of the files; with teacher.from_logs the teacher's answers in the logs.
        chosen: Rows for the teacher to answer.
        by_reason: With teacher.from_logs, why answers are quarantined (production.logged_answers).
    """

    sentence: str
    rows_in: int
    kept: int
    quarantined: int
    repeats: int
    clusters: int
    chosen: int
    by_reason: dict[str, int] = msgspec.field(default_factory=dict)


class TeacherAnswers(Facts, frozen=True, kw_only=True):
    """Facts of teacher_answers. Always rows_in == kept + left_out.

    Attributes:
        generator: The teacher: model and host.
        by_reason: Rows left out, by reason: `form`, `agreement`, or how all calls failed.
        agreement: Rows by the share of answers that are the same, as text.
        labels: Rows kept, by label.
        calls: Answers asked for, those of earlier runs included; 0 if they are in the logs.
        spent_usd: Dollars of all calls so far, also of rows that are no longer asked.
    """

    sentence: str
    generator: str
    rows_in: int
    kept: int
    left_out: int
    by_reason: dict[str, int]
    agreement: dict[str, int]
    labels: dict[str, int]
    calls: int
    spent_usd: float


def unlabelled_settings(spec: TaskSpec, digest: str) -> dict[str, object]:
    """Return the settings of unlabelled_rows; empty without a teacher."""
    if spec.teacher is None:
        return {}
    if spec.teacher.from_logs:
        threshold = spec.data.near_duplicate_threshold
        return {"logs": digest, "system_prompt": spec.system_prompt, "near_duplicate_threshold": threshold}
    reading = {"format", "fields", "roles", "csv", "sheet", "max_unpacked_gib", "inject", "max_chars", "min_chars"}
    scrubbing = {"scrub", "scrub_names", "scrub_region", "near_duplicate_threshold", "unlabelled"}
    data = spec.data.model_dump(include=reading | scrubbing)
    return {"files": digest, "rows": spec.teacher.rows, "system_prompt": spec.system_prompt, **data}


def teacher_settings(spec: TaskSpec) -> dict[str, object]:
    """Return the settings of teacher_answers; empty without a teacher. Those that change no answer are left out."""
    teacher: TeacherSpec | None = spec.teacher
    if teacher is None:
        return {}
    if teacher.endpoint is None:
        asked = teacher.model_dump(include={"min_agreement", "models"})
    else:
        asked = teacher.model_dump(include={"answers", "min_agreement", "prompt"})
        asked |= teacher.endpoint.model_dump(include={"url", "model", "body"})
    return {**asked, "output": spec.output.model_dump(), "length": spec.answer_length}


def identity_of(spec: TaskSpec) -> str:
    """Return a digest of which teacher answers, and with which prompt: what was judged of another one says nothing about it."""
    teacher = spec.teacher
    assert teacher is not None
    asked = teacher.endpoint.model_dump(include={"url", "model", "body"}) if teacher.endpoint else teacher.models
    return digest_json([asked, teacher.prompt or spec.system_prompt])


def make_unlabelled(context: StepContext) -> UnlabelledRows:
    """Read the rows without an answer, and choose those that the teacher is asked: no repeats, and of as many clusters of
    near-duplicates as possible."""
    teacher = context.spec.teacher
    write_rows(context.out / "quarantine.jsonl", [])
    write_examples(context.out / ROWS, [])
    if teacher is None:
        return UnlabelledRows(sentence=NO_TEACHER, rows_in=0, kept=0, quarantined=0, repeats=0, clusters=0, chosen=0)
    if teacher.from_logs:
        return _rows_of_logs(context)
    unlabelled = read_unlabelled(context.task)
    digest = unlabelled_digest(context.task)
    context.refuse_changed("unlabelled files", digest, context.run_inputs.unlabelled)
    by_people = answered_by_people(context.task)
    waiting = [row for row in unlabelled.rows if row.id not in by_people]
    chosen = waiting[: teacher.rows]
    write_examples(context.out / ROWS, chosen)
    write_rows(context.out / "quarantine.jsonl", unlabelled.quarantine)
    kept, quarantined = len(unlabelled.rows), len(unlabelled.quarantine)
    return UnlabelledRows(
        sentence=f"{kept:,} distinct rows in {unlabelled.clusters:,} clusters, of which the teacher is asked {len(chosen):,}; "
        f"{unlabelled.repeats:,} repeats, {quarantined:,} unusable rows and {kept - len(waiting):,} that people answered were left "
        "out",
        rows_in=unlabelled.rows_in,
        kept=kept,
        quarantined=quarantined,
        repeats=unlabelled.repeats,
        clusters=unlabelled.clusters,
        chosen=len(chosen),
    )


def _rows_of_logs(context: StepContext) -> UnlabelledRows:
    """Write the distinct questions that the teacher has answered in the logs, and its answers (LOGGED_ANSWERS)."""
    spec, rows = context.spec, read_logged_rows(context.inputs["production_logs"].path("rows.jsonl"))
    by_people = questions_by_people(context.task)
    context.refuse_changed("answers of people", logged_digest(spec, rows, by_people), context.run_inputs.unlabelled)
    answers = logged_answers(spec, rows, by_people)
    examples = distinct_questions(spec, rows, [answer for answer in answers if not answer.reason])
    threshold = spec.data.near_duplicate_threshold
    clusters = near_duplicate_clusters([example.user_text for example in examples], threshold).tolist()
    chosen = spread(examples, clusters)
    unusable = [answer for answer in answers if answer.reason]
    write_examples(context.out / ROWS, chosen)
    write_rows(context.out / LOGGED_ANSWERS, answers)
    write_rows(context.out / "quarantine.jsonl", unusable)
    reasons = dict(Counter(answer.reason for answer in unusable).most_common())
    repeats = len(answers) - len(unusable) - len(chosen)
    left_out = ", ".join(f"{n:,} {reason}" for reason, n in reasons.items()) or "none"
    return UnlabelledRows(
        sentence=f"{len(answers):,} answers in the logs to {len(chosen):,} distinct questions in {len(set(clusters)):,} clusters; "
        f"{repeats:,} repeat one of these questions. Left out: {left_out}",
        rows_in=len(answers),
        kept=len(chosen),
        quarantined=len(unusable),
        repeats=repeats,
        clusters=len(set(clusters)),
        chosen=len(chosen),
        by_reason=reasons,
    )


def _decide_logged(spec: TaskSpec, rows: Artifact, teacher: TeacherSpec) -> tuple[list[Agreed], list[str]]:
    """Return what the logs' answers to each of the rows decide, and the generator of each: the model that wrote this answer."""
    decided, generators = [], []
    answers_to: defaultdict[str, list[LoggedAnswer]] = defaultdict(list)
    for answer in (msgspec.convert(stored, LoggedAnswer) for stored in read_rows(rows.path(LOGGED_ANSWERS))):
        if not answer.reason:
            answers_to[answer.question].append(answer)
    for row in read_examples(rows.path(ROWS)):
        answers = answers_to[question_of(row.messages)]
        row_answers = agreed_texts(row.id, [a.answer.strip() for a in answers], spec.output, teacher.min_agreement)
        key = answer_key(row_answers.answer, spec.output)
        first = next(a for a in answers if answer_key(a.answer.strip(), spec.output) == key)
        decided.append(row_answers)
        generators.append(f"{TEACHER_GENERATOR}{first.model}")
    return decided, generators


def make_teacher_answers(context: StepContext) -> TeacherAnswers:
    """Ask the teacher, and keep the rows on whose answer it agrees with itself, in valid form, as synthetic examples.

    Commands that only look (`finetune check`, `finetune plan`) run steps without tools: then nothing is bought.
    """
    teacher, spec = context.spec.teacher, context.spec
    write_rows(context.out / ANSWERS, [])
    write_examples(context.out / TEACHER_ROWS, [])
    if teacher is None:
        return TeacherAnswers(
            sentence=NO_TEACHER,
            generator="",
            rows_in=0,
            kept=0,
            left_out=0,
            by_reason={},
            agreement={},
            labels={},
            calls=0,
            spent_usd=0.0,
        )
    rows = read_examples(context.inputs["unlabelled_rows"].path(ROWS))
    if teacher.from_logs:
        decided, generators = _decide_logged(spec, context.inputs["unlabelled_rows"], teacher)
        said = f"{generator_of(teacher)} answered {len(rows):,} questions of the logs"
        return _write_answers(context, rows, decided, generators, Bought(), said)
    state = context.store.state_folder(context.task.name)
    with context.store.lock(context.task.name, "teacher"):
        ledger = open_ledger(context.task, context.store.root.parent, state)
        try:
            may_buy = context.launch is not no_tool
            beaten_by = judged_worse_than(context)
            answers, bought = ask_teacher(
                spec, teacher, rows, ledger, "teacher_answers", may_buy, beaten_by, training=True
            )
        finally:
            ledger.close()
    decided = [
        agreed(row.id, of_row, spec.output, teacher.min_agreement) for row, of_row in zip(rows, answers, strict=True)
    ]
    said = (
        f"{generator_of(teacher)} answered {len(rows):,} rows {teacher.answers} times each for ${bought.spent_usd:.2f}"
    )
    if bought.form_refused:
        said += f"; its endpoint does not decode under the schema ({bought.form_refused}), so it was asked without"
    return _write_answers(context, rows, decided, [generator_of(teacher)] * len(rows), bought, said)


def _write_answers(
    context: StepContext,
    rows: Sequence[Example],
    decided: Sequence[Agreed],
    generators: Sequence[str],
    bought: Bought,
    said: str,
) -> TeacherAnswers:
    """Write the answers, and the examples made of those that are kept. generators: of each row; said: how they were answered."""
    examples = [
        _example(row, row_answers, generator, context.spec.labels)
        for row, row_answers, generator in zip(rows, decided, generators, strict=True)
        if not row_answers.reason
    ]
    write_rows(context.out / ANSWERS, decided)
    write_examples(context.out / TEACHER_ROWS, examples)
    reasons = Counter(row_answers.reason for row_answers in decided if row_answers.reason)
    left_out = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common()) or "none"
    assert context.spec.teacher is not None
    return TeacherAnswers(
        sentence=f"{said}; {len(examples):,} are kept. Left out: {left_out}",
        generator=generator_of(context.spec.teacher),
        rows_in=len(rows),
        kept=len(examples),
        left_out=len(rows) - len(examples),
        by_reason=dict(reasons.most_common()),
        agreement=dict(sorted(Counter(f"{row_answers.agreement:.2f}" for row_answers in decided).items())),
        labels=dict(Counter(e.label for e in examples if e.label is not None)),
        calls=bought.calls,
        spent_usd=bought.spent_usd,
    )


def judged_worse_than(context: StepContext) -> list[str]:
    """Return the simple models that were surely better than this teacher, with this prompt, in the task's newest evaluation."""
    store, name = context.store, context.task.name
    report = store.newest(name, "evaluation_report")
    judged = report.read(Evaluated).teacher if report and report.facts.get("teacher") else None
    predictions = store.find(name, "test_predictions", report.inputs["test_predictions"]) if report and judged else None
    asked = predictions.read(SealedAnswers).teacher if predictions else None
    if not judged or not asked or asked.asked != identity_of(context.spec):
        return []
    return judged.beaten_by


def dollars_of_row(context: StepContext) -> float | None:
    """Return what a kept row of the teacher has cost so far; None without a teacher, or where nothing was paid."""
    answered = context.store.newest(context.task.name, "teacher_answers")
    if context.spec.teacher is None or answered is None:
        return None
    facts = answered.read(TeacherAnswers)
    return facts.spent_usd / facts.kept if facts.kept and facts.spent_usd else None


def generator_of(teacher: TeacherSpec) -> str:
    return f"{TEACHER_GENERATOR}{teacher.name}"


def open_ledger(task: Task, home: Path, state: Path, test: bool = False) -> CallLedger:
    """Open the task's ledger of paid calls, or (test) that of the calls on the sealed test, which is paid from the same budget.
    Raises FindingsError if the teacher's price is not known."""
    teacher = task.spec.teacher
    assert teacher is not None and teacher.budget_usd is not None
    price = teacher_price(task, home)
    names = (LEDGER, TEST_LEDGER) if test else (TEST_LEDGER, LEDGER)
    other = CallLedger(state / names[0], price, teacher.budget_usd)
    other.close()
    return CallLedger(state / names[1], price, teacher.budget_usd - other.spent_usd)


def teacher_price(task: Task, home: Path) -> TokenPrice:
    """Return the price of the teacher's tokens. Raises FindingsError if the price list has no line of its name."""
    teacher = task.spec.teacher
    assert teacher is not None and teacher.endpoint is not None
    prices = load_prices(home=home, task_folder=task.folder)
    price = newest_price((line for line in prices.apis if not line.tuned), teacher.endpoint.model)
    if price is None:
        message = f"{prices.path.name} has no price of {teacher.endpoint.model!r}, so no budget can be kept"
        fix = "copy the price list into the task folder, and add a line with unit: million_served for this model"
        raise FindingsError([Finding("teacher.price", "error", "task.yaml: teacher.endpoint.model", message, fix)])
    return TokenPrice(price.input, price.output)


def _example(row: Example, row_answers: Agreed, generator: str, labels: list[str]) -> Example:
    return msgspec.structs.replace(
        row,
        messages=[*row.messages, {"role": "assistant", "content": row_answers.answer}],
        label=row_answers.answer if labels else None,
        origin="synthetic",
        generator=generator,
        tags=[*row.tags, f"agreement:{row_answers.agreement:.2f}"],
    )
