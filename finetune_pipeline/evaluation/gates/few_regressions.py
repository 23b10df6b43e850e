"""Whether the candidate keeps right what the champion has right."""

from __future__ import annotations

from finetune_pipeline.evaluation.gates.base import DEFAULTS, Outcome, gate
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval
from finetune_pipeline.evaluation.wording import counted, percent, percent_range
from finetune_pipeline.spec.model import TaskSpec


@gate(
    order=50,
    needs="of the rows the champion has right, the upper bound of the share the candidate gets wrong at or below "
    "gates.max_regression; not asked without a champion",
    default=f"{DEFAULTS.max_regression:g}",
    holds_back="champion",
    what_to_do="Read the regressions against the champion in the report. Put rows like them into the training data, or train from "
    "more of the same data; raise gates.max_regression only if those losses are acceptable.",
)
def few_regressions(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    """The interval is Wilson's; where rows share sources, for the number of rows divided by the comparison's design effect, by
    Student's t for the number of sources."""
    limit = spec.gates.max_regression
    comparison = evaluation.comparisons.get("champion")
    if comparison is None:
        if evaluation.versions.get("champion"):
            return Outcome(False, None, limit, "There is a champion, but it was not compared.")
        return Outcome("not_asked", None, limit, "No champion in service yet: nothing to lose.")
    lost, right, effect = comparison.b, comparison.right_before, comparison.design_effect
    if lost is None or right is None or effect is None or not 0 <= lost <= right or effect < 1:
        return Outcome(False, None, limit, "Regressions against the champion were not counted.")
    if not right:
        return Outcome(True, 0.0, limit, "The champion has no test row right: nothing to lose.")
    sources = evaluation.sources
    freedom = max(1, sources.sources - 1) if sources.shared else None
    interval = wilson_interval(lost / effect, right / effect, spec.gates.confidence, freedom)
    message = (
        f"Of {counted(right, 'row')} the champion has right the candidate gets {lost:,} wrong, "
        f"{percent(lost / right)} ({percent_range(interval)}); surely at most {percent(limit)} are allowed."
    )
    best = wilson_interval(0, right / effect, spec.gates.confidence, freedom)[1]
    if best > limit:
        message += f" With so few rows even a candidate that loses none could not show less than {percent(best)}."
    return Outcome(interval[1] <= limit, interval[1], limit, message)
