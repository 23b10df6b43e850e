"""What the simplest model reaches on rows it has not seen, with its interval, in seconds: before any language model is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_pipeline.baseline.learnable import Learnable
from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.sample import chosen, hash_order
from finetune_pipeline.evaluation.metrics import METRICS, metric_title
from finetune_pipeline.evaluation.simple_models import CommonestFields, NearestRow, SimpleModel, TfidfLogistic
from finetune_pipeline.evaluation.statistics import wilson_interval
from finetune_pipeline.evaluation.wording import percent
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import JsonOutput

ROWS = 4_000
"""Rows of a text or JSON task that are looked at."""
_FOLDS = 4
_LEAST = 20


@dataclass(frozen=True)
class SimpleScore:
    """A simple model's score on `rows` rows that it was not fitted on; reference: of what does not look at the input."""

    title: str
    metric: str
    value: float
    interval: tuple[float, float]
    rows: int
    reference_title: str | None = None
    reference: float | None = None

    @property
    def sentence(self) -> str:
        low, high = self.interval
        beside = "" if self.reference is None else f"; {self.reference_title}: {percent(self.reference)}"
        return (
            f"{self.title}: {self.metric} {percent(self.value)} ({percent(low)} to {percent(high)}) on {self.rows:,} rows it "
            f"has not seen{beside}"
        )


def simple_score(spec: TaskSpec, rows: Sequence[Example], signal: Learnable | None) -> SimpleScore | None:
    """TF-IDF and logistic regression where answers are labels or JSON, the nearest row's answer where they are free text.

    Args:
        spec: The task.
        rows: Clean rows, of which near-duplicates were removed.
        signal: Of :func:`.learnable.learnable`, whose cross-validation of the labels is used.

    Returns:
        None where the rows are too few.
    """
    if spec.labels:
        linear = next((e for e in signal.evidence if e.name == "linear"), None) if signal else None
        if linear is None or signal is None:
            return None
        interval = wilson_interval(linear.score * signal.rows, signal.rows, spec.gates.confidence)
        title = "TF-IDF and logistic regression"
        return SimpleScore(
            title, "accuracy", linear.score, interval, signal.rows, linear.reference_title, linear.reference_score
        )
    rows = chosen(rows, ROWS, "simple")
    held = [e for e in rows if hash_order(e.made_from, "simple") % _FOLDS == 0]
    fitted = [e for e in rows if hash_order(e.made_from, "simple") % _FOLDS]
    if len(held) < _LEAST or len(fitted) < _LEAST:
        return None
    is_json = isinstance(spec.output, JsonOutput)
    metric = METRICS[spec.metric]

    def scored(model: SimpleModel) -> list[dict[str, str]]:
        model.fit([e.user_text for e in fitted], [e.answer for e in fitted], spec.output)
        answers = model.predict([e.user_text for e in held])
        return [
            {"example_id": e.id, "gold": e.answer, "text": text, "status": "ok"}
            for e, text in zip(held, answers, strict=True)
        ]

    model = TfidfLogistic if is_json else NearestRow
    try:
        answers = scored(model())
    except ValueError:  # no text holds a word to count
        return None
    value, interval = metric.value(answers, spec.output), metric.interval(answers, spec.output, spec.gates.confidence)
    if value is None or interval is None:
        return None
    reference = metric.value(scored(CommonestFields()), spec.output) if is_json else None
    return SimpleScore(
        model.title,
        metric_title(spec.metric),
        value,
        interval,
        len(held),
        CommonestFields.title if is_json else None,
        reference,
    )
