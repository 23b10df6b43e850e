"""Gate: the score is surely at least what the user would ship."""

from finetune_pipeline.evaluation.gates.base import LeastRows, Outcome, gate
from finetune_pipeline.evaluation.metrics import METRICS, metric_title, score_text
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.statistics.power import rows_needed_for_share
from finetune_pipeline.spec.model import TaskSpec


def _least_rows(spec: TaskSpec) -> LeastRows | None:
    if spec.gates.min_score is None or not METRICS[spec.metric].right_or_wrong:
        return None
    return LeastRows(rows_needed_for_share(spec.gates.min_score, spec.gates.confidence), "lower gates.min_score")


@gate(
    order=35,
    unasked=lambda spec: "The spec sets no gates.min_score." if spec.gates.min_score is None else "",
    trained_only="",
    least_rows=_least_rows,
    needs="The lower bound of the score in gates.metric (where that is coverage, in its default), at the level of this judgement, "
    "is at or above gates.min_score (the upper bound at or below it where less is better). Not asked if gates.min_score is unset.",
    default="unset",
    what_to_do="It is not good enough to ship by your own measure. Add or correct training rows like those that fail, or try a "
    "larger base model. If only the lower bound is too low, enlarge the test set.",
)
def min_score(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    least, metric = spec.gates.min_score, METRICS[spec.metric]
    assert least is not None
    interval, scores = evaluation.score_interval, evaluation.scores["candidate"]
    if interval is None or scores.primary.value is None:
        return Outcome(False, None, least, "The interval of the score could not be measured.")
    bound = interval[0] if metric.higher_is_better else interval[1]
    message = (
        f"{metric_title(metric.name)} {score_text(metric.name, scores.primary.value)}, surely "
        f"{score_text(metric.name, interval[0])} to {score_text(metric.name, interval[1])} at the level of this judgement; "
        f"{'at least' if metric.higher_is_better else 'at most'} {score_text(metric.name, least)} is asked for."
    )
    return Outcome(metric.rank(bound) >= metric.rank(least), bound, least, message)
