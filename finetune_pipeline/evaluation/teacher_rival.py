"""Compares the candidate with the teacher whose answers it learned, on the sealed rows that people answered."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import scipy

from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.evaluation.compare import SourceOf, compare, shared_sources
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.deciding import MIN_ROWS, answers_to, decide_gain
from finetune_pipeline.evaluation.decisions import LabelErrors, TeacherRival
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.predictions import in_order
from finetune_pipeline.evaluation.scored_rows import scored
from finetune_pipeline.evaluation.scores import score
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval
from finetune_pipeline.evaluation.wording import inside
from finetune_pipeline.spec.model import TaskSpec

TEACHER = "teacher"
"""Name of the teacher in its prediction rows, and of the rival."""
ROWS = "teacher.parquet"
"""File of its answers beside the predictions of the other models."""


class AskedTeacher(Facts, frozen=True, kw_only=True):
    """Facts about the teacher's answers to the sealed rows; see TeacherRival.

    asked: digest of model and prompt. dollars_per_1k: None if its answers are in the logs, or its tokens were not counted.
    """

    name: str
    asked: str
    dollars_per_1k: float | None
    milliseconds: float | None
    kept: int
    kept_wrong: int
    spent_usd: float
    missing: int = 0
    by_label: list[LabelErrors] = []


def errors_by_label(answers: Sequence[tuple[str, str]]) -> list[LabelErrors]:
    """Count the wrong answers for each label, from pairs of people's label and the teacher's answer. In the labels' order."""
    wrong: dict[str, Counter[str]] = {label: Counter() for label in sorted({label for label, _ in answers})}
    for label, answer in answers:
        if answer != label:
            wrong[label][answer] += 1
    return [
        LabelErrors(
            label=label,
            n=sum(of_people == label for of_people, _ in answers),
            wrong=others.total(),
            instead=others.most_common(1)[0][0] if others else "",
        )
        for label, others in wrong.items()
    ]


def surely_worse_labels(by_label: Sequence[LabelErrors], level: float) -> list[LabelErrors]:
    """Return the labels on which the teacher is surely wrong more often than on all others together, the worst first.

    One-sided exact test by Fisher of each label against the rest, at level / (2 · labels) (Bonferroni).
    """
    rows, wrong = sum(errors.n for errors in by_label), sum(errors.wrong for errors in by_label)
    worse = [
        errors
        for errors in by_label
        if scipy.stats.fisher_exact(
            [
                [errors.wrong, errors.n - errors.wrong],
                [wrong - errors.wrong, rows - errors.n - (wrong - errors.wrong)],
            ],
            alternative="greater",
        ).pvalue
        <= level / (2 * len(by_label))
    ]
    return sorted(worse, key=lambda errors: (-errors.wrong / errors.n, errors.label))


def compare_with_teacher(
    spec: TaskSpec,
    rows: Sequence[Row],
    candidate: Sequence[Row],
    simple: Mapping[str, Sequence[Row]],
    facts: AskedTeacher,
    level: float,
    sources: SourceOf,
) -> TeacherRival:
    """Compare the candidate with the teacher on the rows that the teacher answered.

    Args:
        rows: The teacher's.
        candidate, simple: In the order of example ids; of the simple models by name.
        level: Two-sided significance level of this judgement.
    """
    answers = in_order(scored(rows, spec.output))
    beside = answers_to(answers, candidate)
    comparison = decision = None
    beaten_by = []
    if len(answers) >= MIN_ROWS:
        comparison = compare(answers, beside, spec.output, spec.gates.confidence, spec.metric, sources)
        comparison = comparison.model_copy(update={"fixed": [], "broken": []})
        decision = decide_gain(
            {TEACHER: answers},
            beside,
            spec.output,
            list(dict.fromkeys([spec.metric, *spec.gates.more_metrics])),
            level=level,
            margin=-spec.gates.teacher_margin,
            clusters=shared_sources(beside, sources),
        )
        metric, clusters = METRICS[spec.metric], shared_sources(answers, sources)
        for name, simple_rows in simple.items():
            gain = metric.gain(answers, answers_to(answers, simple_rows), spec.output, 1 - level, clusters)
            beaten_by += [inside(SIMPLE_MODELS[name].title)] if gain.surely_above() else []
    return TeacherRival(
        name=facts.name,
        n=len(answers),
        missing=facts.missing,
        score=score(answers, spec, sources).primary,
        comparison=comparison,
        decision=decision,
        beaten_by=beaten_by,
        dollars_per_1k=facts.dollars_per_1k,
        milliseconds=facts.milliseconds,
        kept=facts.kept,
        kept_wrong=facts.kept_wrong,
        noise=wilson_interval(facts.kept_wrong, facts.kept, spec.gates.confidence) if facts.kept else None,
        worse_on=surely_worse_labels(facts.by_label, 1 - spec.gates.confidence),
    )


def teacher_file(predictions: Path) -> Path:
    """Return the file of the teacher's answers in a folder of predictions."""
    return predictions / ROWS
