"""DATA: rows without an answer, and the answers that the teacher of task.yaml gives to them."""

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.data.answer_equality import same_answer
from finetune_pipeline.data.examples import Example, read_examples, write_examples
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.unlabelled import read_unlabelled, unlabelled_digest
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.files import digest_json
from finetune_pipeline.engine.step import StepContext, no_tool
from finetune_pipeline.evaluation.call_ledger import CallLedger, TokenPrice
from finetune_pipeline.evaluation.predictions import prediction_row, write_predictions
from finetune_pipeline.evaluation.sealed_answers import SealedAnswers
from finetune_pipeline.evaluation.teacher import Agreed, agreed, ask_teacher
from finetune_pipeline.evaluation.teacher_rival import TEACHER, AskedTeacher, errors_by_label, teacher_file
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.planning.prices import load_prices, newest_price
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline.spec.teacher import TeacherSpec

ROWS, ANSWERS, TEACHER_ROWS = "rows.jsonl", "answers.jsonl", "examples.jsonl"
"""Files: the rows to ask; the teacher's answers to each (Agreed); the rows that are kept, as examples."""
LEDGER, TEST_LEDGER = "teacher_calls.sqlite", "teacher_test_calls.sqlite"
NO_TEACHER = "no teacher is declared"


class UnlabelledRows(Facts, frozen=True, kw_only=True):
    """Facts of unlabelled_rows. Always rows_in == kept + quarantined + repeats. chosen: rows for the teacher to answer."""

    sentence: str
    rows_in: int
    kept: int
    quarantined: int
    repeats: int
    clusters: int
    chosen: int


class TeacherAnswers(Facts, frozen=True, kw_only=True):
    """Facts of teacher_answers. Always rows_in == kept + left_out.

    Attributes:
        generator: The teacher: model and host.
        by_reason: Rows left out, by reason: `form`, `agreement`, or how all calls failed.
        agreement: Rows by the share of answers that are the same, as text.
        labels: Rows kept, by label.
        calls: Answers asked for, those of earlier runs included.
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


def unlabelled_settings(spec: TaskSpec, digest: str) -> dict[str, Any]:
    """Return the settings of unlabelled_rows; empty without a teacher."""
    if spec.teacher is None:
        return {}
    reading = {"format", "fields", "roles", "csv", "sheet", "max_unpacked_gib", "inject", "max_chars", "min_chars"}
    scrubbing = {"scrub", "scrub_names", "scrub_region", "near_duplicate_threshold", "unlabelled"}
    data = spec.data.model_dump(include=reading | scrubbing)
    return {"files": digest, "rows": spec.teacher.rows, "system_prompt": spec.system_prompt, **data}


def teacher_settings(spec: TaskSpec) -> dict[str, Any]:
    """Return the settings of teacher_answers; empty without a teacher. Those that change no answer are left out."""
    teacher: TeacherSpec | None = spec.teacher
    if teacher is None:
        return {}
    asked = teacher.model_dump(include={"answers", "min_agreement", "prompt"})
    asked |= teacher.endpoint.model_dump(include={"url", "model", "body"})
    return {**asked, "output": spec.output.model_dump(), "length": spec.answer_length}


def make_unlabelled(context: StepContext) -> UnlabelledRows:
    """Read the rows without an answer, and choose those that the teacher is asked: no repeats, and of as many clusters of
    near-duplicates as possible."""
    teacher = context.spec.teacher
    write_rows(context.out / "quarantine.jsonl", [])
    write_examples(context.out / ROWS, [])
    if teacher is None:
        return UnlabelledRows(sentence=NO_TEACHER, rows_in=0, kept=0, quarantined=0, repeats=0, clusters=0, chosen=0)
    unlabelled = read_unlabelled(context.task)
    digest = unlabelled_digest(context.task)
    context.refuse_changed("unlabelled files", digest, context.run_inputs.unlabelled)
    chosen = unlabelled.rows[: teacher.rows]
    write_examples(context.out / ROWS, chosen)
    write_rows(context.out / "quarantine.jsonl", unlabelled.quarantine)
    kept, quarantined = len(unlabelled.rows), len(unlabelled.quarantine)
    return UnlabelledRows(
        sentence=f"{kept:,} distinct rows in {unlabelled.clusters:,} clusters, of which the teacher is asked {len(chosen):,}; "
        f"{unlabelled.repeats:,} repeats and {quarantined:,} unusable rows were left out",
        rows_in=unlabelled.rows_in,
        kept=kept,
        quarantined=quarantined,
        repeats=unlabelled.repeats,
        clusters=unlabelled.clusters,
        chosen=len(chosen),
    )


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
    state = context.store.state_folder(context.task.name)
    with context.store.lock(context.task.name, "teacher"):
        ledger = open_ledger(context.task, context.store.root.parent, state)
        try:
            may_buy = context.launch is not no_tool
            beaten_by = judged_worse_than(context)
            answers, bought = ask_teacher(spec, teacher, rows, ledger, "teacher_answers", may_buy, beaten_by)
        finally:
            ledger.close()
    decided = [
        agreed(row.id, of_row, spec.output, teacher.min_agreement) for row, of_row in zip(rows, answers, strict=True)
    ]
    generator = generator_of(teacher)
    examples = [
        _example(row, row_answers, generator, spec.labels)
        for row, row_answers in zip(rows, decided, strict=True)
        if not row_answers.reason
    ]
    write_rows(context.out / ANSWERS, decided)
    write_examples(context.out / TEACHER_ROWS, examples)
    reasons = Counter(row_answers.reason for row_answers in decided if row_answers.reason)
    left_out = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common()) or "none"
    return TeacherAnswers(
        sentence=f"{generator} answered {len(rows):,} rows {teacher.answers} times each for ${bought.spent_usd:.2f}; "
        f"{len(examples):,} are kept. Left out: {left_out}",
        generator=generator,
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
    judged = report.facts.get("teacher") if report else None
    predictions = store.find(name, "test_predictions", report.inputs["test_predictions"]) if report and judged else None
    asked = predictions.read(SealedAnswers).teacher if predictions else None
    if not judged or not asked or asked.asked != digest_json(teacher_settings(context.spec)):
        return []
    return list(judged.get("beaten_by", []))


def generator_of(teacher: TeacherSpec) -> str:
    return f"teacher {teacher.endpoint.model}"


def open_ledger(task: Task, home: Path, state: Path, test: bool = False) -> CallLedger:
    """Open the task's ledger of paid calls, or (test) that of the calls on the sealed test, which is paid from the same budget.
    Raises FindingsError if the teacher's price is not known."""
    teacher = task.spec.teacher
    assert teacher is not None
    price = teacher_price(task, home)
    names = (LEDGER, TEST_LEDGER) if test else (TEST_LEDGER, LEDGER)
    other = CallLedger(state / names[0], price, teacher.budget_usd)
    other.close()
    return CallLedger(state / names[1], price, teacher.budget_usd - other.spent_usd)


def ask_about_test(context: StepContext, examples: Path) -> AskedTeacher | None:
    """Let the teacher answer the sealed rows, into teacher.parquet; None without a teacher.

    Its first answer is the rival's. Of all its answers follows which rows it would keep as training rows, and how many of these are
    wrong. A row whose call failed, so that nobody knows its answer, is left out; an answer that was withheld is empty.
    """
    spec, teacher = context.spec, context.spec.teacher
    if teacher is None:
        return None
    rows = read_examples(examples)
    with context.store.lock(context.task.name, "teacher"):
        state = context.store.state_folder(context.task.name)
        ledger = open_ledger(context.task, context.store.root.parent, state, test=True)
        try:
            answers, bought = ask_teacher(spec, teacher, rows, ledger, "test_predictions")
            milliseconds = ledger.milliseconds
        finally:
            ledger.close()
    predictions = []
    for row, drawn in zip(rows, answers, strict=True):
        first = drawn[0]
        if first.error.startswith(("filtered", "called_tool")):
            first = Answer(status="empty")
        if first.status != "error":
            predictions.append(prediction_row(row.id, TEACHER, first, row.answer))
    write_predictions(teacher_file(context.out), predictions)
    decided = [
        agreed(row.id, drawn, spec.output, teacher.min_agreement) for row, drawn in zip(rows, answers, strict=True)
    ]
    kept = [(row, said) for row, said in zip(rows, decided, strict=True) if not said.reason]
    firsts = [drawn[0] for drawn in answers if drawn[0].prompt_tokens]
    tokens = [
        sum(counts) / max(1, len(firsts))
        for counts in ([a.prompt_tokens for a in firsts], [a.new_tokens for a in firsts])
    ]
    return AskedTeacher(
        name=generator_of(teacher),
        asked=digest_json(teacher_settings(spec)),
        dollars_per_1k=round(1000 * ledger.price.of(*tokens), 6),
        milliseconds=milliseconds,
        kept=len(kept),
        kept_wrong=sum(not same_answer(said.answer, row.answer, spec.output) for row, said in kept),
        spent_usd=bought.spent_usd,
        by_label=errors_by_label([(row.label, said.answer) for row, said in kept if row.label is not None]),
    )


def teacher_price(task: Task, home: Path) -> TokenPrice:
    """Return the price of the teacher's tokens. Raises FindingsError if the price list has no line of its name."""
    teacher = task.spec.teacher
    assert teacher is not None
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
