"""Gate: every compared model generated every answer."""

from finetune_pipeline.evaluation.gates.base import Outcome, gate
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.wording import counted
from finetune_pipeline.spec.model import TaskSpec


@gate(
    order=90,
    needs="No answer of any compared model ended in an error.",
    default="0",
    what_to_do="Read the error texts in the predictions (column error), fix the cause, and materialize "
    "test_predictions again.",
)
def no_failed_generation(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    scores = evaluation.scores
    models = ["base", "candidate"]
    if evaluation.comparisons.get("champion") is not None or "champion" in scores:
        models.append("champion")
    errors = {model: scores[model].statuses.get("error") if model in scores else None for model in models}
    if unknown := [model for model, count in errors.items() if count is None]:
        return Outcome(False, None, 0.0, f"Failed answers were not counted for {', '.join(unknown)}.")
    failed = {model: count for model, count in errors.items() if count}
    if not failed:
        return Outcome(True, 0, 0.0, f"Every answer was generated ({', '.join(models)}).")
    total = sum(failed.values())
    by_model = ", ".join(f"{model} {count}" for model, count in failed.items())
    return Outcome(False, total, 0.0, f"{counted(total, 'answer')} could not be generated: {by_model}.")
