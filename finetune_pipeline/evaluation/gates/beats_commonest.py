"""Gate: the candidate is better than always giving the most common answer."""

from finetune_pipeline.evaluation.gates.base import DEFAULTS, Outcome, gate
from finetune_pipeline.evaluation.gates.paired_gains import one_gain, worst_gain
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.simple_models import BLIND, SIMPLE_MODELS
from finetune_pipeline.evaluation.wording import inside
from finetune_pipeline.spec.model import TaskSpec


@gate(
    order=20,
    trained_only="",
    needs="The lower bound of the paired gain over always giving the commonest answer (for JSON also each field's commonest "
    "value) is above zero in gates.metric and every one of gates.more_metrics, whatever gates.simple says.",
    default=f"{100 * DEFAULTS.confidence:g}% interval for the first candidate; a tie does not pass",
    what_to_do="The model has learned nothing that shows. Look for labels that do not belong to their texts (joins, shifted "
    "columns), and for answers that depend on something the input does not hold.",
)
def beats_commonest(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    measured = worst_gain([gain for gain in evaluation.decisions.simple.gains if gain.rival in BLIND])
    if measured is None:
        message = "The gain over always giving the most common answer could not be measured."
        return Outcome(False, None, 0.0, message)
    (low, _), worst = measured
    titles = {name: inside(SIMPLE_MODELS[name].title) for name in BLIND}
    message = f"Against {one_gain(worst, titles)}. The lower bound must lie above zero."
    return Outcome(low > 0, low, 0.0, message)
