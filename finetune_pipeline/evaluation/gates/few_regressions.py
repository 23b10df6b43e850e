"""Gate: the candidate gets few rows wrong that the champion has right."""

from finetune_pipeline.evaluation.gates.base import DEFAULTS, Outcome, gate
from finetune_pipeline.evaluation.gates.paired_gains import champion_not_compared
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.wording import counted, percent, percent_range
from finetune_pipeline.spec.model import TaskSpec


@gate(
    order=50,
    trained_only="",
    needs="Of the rows the champion has right, the upper bound of the share the candidate gets wrong is at or below "
    "gates.max_regression; of a champion that was trained on forgotten rows the lower bound. Not asked without a champion.",
    default=f"{DEFAULTS.max_regression:g}",
    what_to_do="Read the regressions against the champion in the report. Put rows like them into the training data, or train from "
    "more of the same data; raise gates.max_regression only if those losses are acceptable.",
)
def few_regressions(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    limit = spec.gates.max_regression
    comparison = evaluation.comparisons.get("champion")
    if comparison is None:
        if evaluation.versions.get("champion"):
            return champion_not_compared(evaluation, limit)
        return Outcome("not_asked", None, limit, "No champion in service yet: nothing to lose.")
    lost, champion_right, interval = comparison.b, comparison.right_before, comparison.lost_interval
    if champion_right == 0:
        return Outcome(True, 0.0, limit, "The champion has no test row right: nothing to lose.")
    if lost is None or champion_right is None or interval is None:
        return Outcome(False, None, limit, "Regressions against the champion were not counted.")
    message = (
        f"Of {counted(champion_right, 'row')} the champion has right the candidate gets {lost:,} wrong, "
        f"{percent(lost / champion_right)} ({percent_range(interval)}); "
    )
    if evaluation.champion_forgotten:
        message += f"more than {percent(limit)} must not be sure, as the champion was trained on forgotten rows."
        return Outcome(interval[0] <= limit, interval[0], limit, message)
    message += f"surely at most {percent(limit)} are allowed."
    least_lost = comparison.least_lost
    if least_lost is not None and least_lost > limit:
        message += f" With so few rows even a candidate that loses none could not show less than {percent(least_lost)}."
    return Outcome(interval[1] <= limit, interval[1], limit, message)
