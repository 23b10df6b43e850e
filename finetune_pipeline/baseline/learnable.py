"""Decides whether the inputs predict the answers, from the comparisons of :mod:`.input_evidence`. Shuffled columns and wrong
joins fail all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune_pipeline.evaluation.compare import SourceOf, compare
from finetune_pipeline.evaluation.metrics import METRICS, RowMetric
from finetune_pipeline.evaluation.predictions import SIMPLE, same_rows
from finetune_pipeline.evaluation.rivals import MODE_TITLES, base_at_its_best
from finetune_pipeline.evaluation.simple_models import CommonestAnswer
from finetune_pipeline.evaluation.statistics.multiple_testing import holm
from finetune_pipeline.evaluation.wording import counted, percent, prompt_name
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import default_metric

Status = Literal["shown", "not_shown", "too_few_rows"]
LOOK_AT = "Look for a join that went wrong, shuffled columns, or answers that depend on something not in the input."


@dataclass(frozen=True)
class Evidence:
    """One comparison with a reference that ignores the input.

    Attributes:
        title, reference_title: Display names.
        score, reference_score: Scores on the same rows, from 0 to 1.
        interval: Of the gain, at gates.confidence.
        p: Two-sided, that the gain is zero; not adjusted for the number of comparisons.
        measure: The unit of the scores: shares of correct answers, or a mean overlap of texts (chrF, or F1 of JSON fields).
    """

    name: str
    title: str
    score: float
    reference_title: str
    reference_score: float
    gain: float
    interval: tuple[float, float]
    p: float
    measure: Literal["right", "overlap"] = "right"


@dataclass(frozen=True)
class Learnable:
    """Whether the inputs predict the answers.

    Attributes:
        status: shown: something predicts them significantly better than chance. not_shown: nothing does, on rows that could have
            shown it. too_few_rows: nothing does, and these rows could not have shown it.
        rows: Number of training rows examined.
        rows_needed: Training rows needed to show a worthwhile gain; None if unknown.
    """

    status: Status
    evidence: list[Evidence]
    rows: int
    rows_needed: int | None
    sentence: str


def decide(evidence: Sequence[Evidence], rows: int, needed: int | None, level: float) -> Learnable:
    """Decide from comparisons; `level`: chance of a wrong "shown" over all of them together (Holm)."""
    adjusted = holm([e.p for e in evidence])
    significant = [e for e, p in zip(evidence, adjusted, strict=True) if e.gain > 0 and p <= level]
    best = max(significant or evidence, key=lambda e: e.gain, default=None)
    status: Status = "not_shown"
    if significant and best:
        status, sentence = "shown", f"The inputs predict the answers: {_scores(best)}."
    elif best is None or needed is None or rows < needed:
        requirement = "" if needed is None else f"; showing a gain worth having takes {needed:,}"
        so_far = f" So far: {_scores(best)}." if best else ""
        few = counted(rows, "training row")
        sentence = f"{few} cannot show that the inputs predict the answers{requirement}.{so_far}"
        status = "too_few_rows"
    else:
        sentence = f"The inputs do not predict the answers: {_scores(best)}. {LOOK_AT}"
    return Learnable(status, list(evidence), rows, needed, sentence)


def _scores(evidence: Evidence) -> str:
    predicate, preposition = ("right", "by") if evidence.measure == "right" else ("overlap", "of")
    return (
        f"{percent(evidence.score)} {predicate} {preposition} {evidence.title}, "
        f"{percent(evidence.reference_score)} {preposition} {evidence.reference_title}"
    )


def prompted_evidence(
    spec: TaskSpec, best: str, rows: Mapping[str, Sequence[Mapping[str, Any]]], sources: SourceOf = None
) -> Evidence | None:
    """Compares the base model at its best with always giving the most common answer, on validation. sources: of each row, by id.

    None if the most common answer was not scored, or the metric is not a mean over rows.
    """
    base = base_at_its_best(rows, spec.output, best)
    before, after = same_rows(rows.get(SIMPLE + CommonestAnswer.name, ()), base.answers[base.mode])
    if not before:
        return None
    # a metric of counts has no paired test, so right answers replace it
    metric = spec.metric if isinstance(METRICS[spec.metric], RowMetric) else default_metric(spec.output)
    compared = compare(before, after, spec.output, spec.gates.confidence, metric, sources)
    if compared.metric_p is None or compared.interval is None:
        return None
    return Evidence(
        "prompted",
        f"the base model, {prompt_name(best)}{MODE_TITLES[base.mode]}, on validation",
        float(compared.candidate or 0.0),
        "always the commonest answer",
        float(compared.base or 0.0),
        float(compared.gain or 0.0),
        (compared.interval[0], compared.interval[1]),
        float(compared.metric_p),
        "right" if METRICS[metric].right_or_wrong else "overlap",
    )
