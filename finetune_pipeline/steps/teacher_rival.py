"""EVALUATION: what the teacher answers to the sealed rows, as a rival of its student."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from finetune_pipeline.data.answer_equality import same_answer
from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.evaluation.predictions import prediction_row, write_predictions
from finetune_pipeline.evaluation.production_rows import read_logged_rows
from finetune_pipeline.evaluation.teacher import Agreed, agreed, agreed_texts, ask_teacher
from finetune_pipeline.evaluation.teacher_rival import TEACHER, AskedTeacher, errors_by_label, teacher_file
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.production.logged_answers import logged_answers, question_of
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.teacher import TeacherSpec
from finetune_pipeline.steps.teacher import generator_of, identity_of, open_ledger


def ask_about_test(context: StepContext, examples: Path) -> AskedTeacher | None:
    """Let the teacher answer the sealed rows, into teacher.parquet; None without a teacher.

    Its first answer is the rival's. Of all its answers follows which rows it would keep as training rows, and how many of these are
    wrong. A row whose call failed, so that nobody knows its answer, is left out; an answer that was withheld is empty.
    """
    spec, teacher = context.spec, context.spec.teacher
    if teacher is None:
        return None
    rows = read_examples(examples)
    if teacher.from_logs:
        return _look_up_test(context, teacher, rows)
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
        (row, agreed(row.id, drawn, spec.output, teacher.min_agreement))
        for row, drawn in zip(rows, answers, strict=True)
    ]
    firsts = [drawn[0] for drawn in answers if drawn[0].prompt_tokens]
    tokens = [
        sum(counts) / max(1, len(firsts))
        for counts in ([a.prompt_tokens for a in firsts], [a.new_tokens for a in firsts])
    ]
    return _asked(
        spec,
        teacher,
        decided,
        dollars_per_1k=round(1000 * ledger.price.of(*tokens), 6) if firsts else None,
        milliseconds=milliseconds,
        spent_usd=bought.spent_usd,
    )


def _look_up_test(context: StepContext, teacher: TeacherSpec, rows: Sequence[Example]) -> AskedTeacher:
    """Write what the logs hold of the teacher's answers to the sealed rows' questions, corrected ones too, into teacher.parquet."""
    spec = context.spec
    said: defaultdict[str, list[str]] = defaultdict(list)
    for logged in logged_answers(spec, read_logged_rows(context.inputs["production_logs"].path("rows.jsonl"))):
        said[logged.question].append(logged.answer.strip())
    answered = [(row, texts) for row in rows if (texts := said.get(question_of(row.messages)))]
    predictions = [
        prediction_row(row.id, TEACHER, Answer(text=texts[0]) if texts[0] else Answer(status="empty"), row.answer)
        for row, texts in answered
    ]
    write_predictions(teacher_file(context.out), predictions)
    decided = [(row, agreed_texts(row.id, texts, spec.output, teacher.min_agreement)) for row, texts in answered]
    return _asked(spec, teacher, decided, missing=len(rows) - len(answered))


def _asked(
    spec: TaskSpec,
    teacher: TeacherSpec,
    decided: Sequence[tuple[Example, Agreed]],
    *,
    dollars_per_1k: float | None = None,
    milliseconds: float | None = None,
    spent_usd: float = 0.0,
    missing: int = 0,
) -> AskedTeacher:
    """Return the facts of the answers to sealed rows, with the noise of those that would be kept as training rows."""
    kept = [(row, said) for row, said in decided if not said.reason]
    return AskedTeacher(
        name=generator_of(teacher),
        asked=identity_of(spec),
        dollars_per_1k=dollars_per_1k,
        milliseconds=milliseconds,
        kept=len(kept),
        kept_wrong=sum(not same_answer(said.answer, row.answer, spec.output) for row, said in kept),
        spent_usd=spent_usd,
        missing=missing,
        by_label=errors_by_label([(row.label, said.answer) for row, said in kept if row.label is not None]),
    )
