"""Gate: the candidate is not worse than the champion on recent production rows."""

from finetune_pipeline.evaluation.gates.base import Outcome, gate
from finetune_pipeline.evaluation.production_rows import MIN_ROWS
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.wording import points, points_range
from finetune_pipeline.spec.model import TaskSpec


@gate(
    order=150,
    trained_only="Recent production rows are compared for the fine-tuned model alone.",
    needs="On recent production rows with a known answer, which no version was trained on, the candidate is not shown to be "
    "worse than the champion (the base model if there is none). Not asked if there are fewer than "
    f"{MIN_ROWS} such rows.",
    default="logs.judging_share 0.2",
    what_to_do="Keep the champion: the candidate is better on the collected data but worse on current requests. Look at the "
    "drift page, and train again with the newest corrections.",
)
def recent_production(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    """Refuse a candidate whose whole interval of the gain on recent production rows lies below zero.

    Corrected rows favour the candidate, which did not answer them: a loss despite that is evidence, a win is not. Too few rows
    block no candidate; enough rows that were not compared do.
    """
    production = evaluation.production
    if production is None:
        message = "No production rows with a known answer are kept to judge (logs.judging_share)."
        return Outcome("not_asked", None, 0.0, message)
    rows, rival = production.rows, "champion" if evaluation.versions.get("champion") else "base"
    if production.judged is False and rows.rows is not None and rows.rows < MIN_ROWS:
        message = f"{rows.rows} recent production rows with a known answer; at least {MIN_ROWS} are needed."
        return Outcome("not_asked", None, 0.0, message)
    comparison = production.comparisons.get(rival)
    if production.judged and rival == "base" and "base" not in production.scores:
        message = "The baseline is an API model, which production rows are not sent to: nothing to compare with."
        return Outcome("not_asked", None, 0.0, message)
    if not production.judged or comparison is None or comparison.gain is None or comparison.interval is None:
        why = f"fewer than {MIN_ROWS} were answered by both models"
        return Outcome(False, None, 0.0, f"Recent production rows were not compared: {why}.")
    message = (
        f"On {comparison.n} recent production rows ({rows.confirmed} confirmed, the others corrected): "
        f"{points(comparison.gain)} points against the {rival} ({points_range(comparison.interval)}), "
        f"{len(comparison.broken)} of its right answers lost."
    )
    high = comparison.interval[1]
    return Outcome(high >= 0, high, 0.0, message)
