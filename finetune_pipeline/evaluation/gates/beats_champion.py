"""Gate: the candidate is better than the champion, or not worse if the spec allows that."""

from finetune_pipeline.evaluation.deciding import margin_of
from finetune_pipeline.evaluation.gates.base import DEFAULTS, Outcome, gate
from finetune_pipeline.evaluation.gates.paired_gains import paired_gain
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.spec.model import TaskSpec


@gate(
    order=40,
    needs="The lower bound of the paired gain over the champion is above zero (gates.champion: better), or is above minus "
    "gates.champion_margin and the candidate is ahead (not_worse). Not asked without a champion.",
    default=f"{DEFAULTS.champion}, {100 * DEFAULTS.confidence:g}% interval for the first candidate; a tie does not pass",
    what_to_do="Keep the champion. Look at the regressions against it; retrain with the production rows that it gets wrong.",
)
def beats_champion(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    gates = spec.gates
    threshold = margin_of(gates.champion, gates.champion_margin)
    decision = evaluation.decisions.champion
    if decision is None:
        if evaluation.versions.get("champion"):
            return Outcome(False, None, threshold, "There is a champion, but the candidate was not compared with it.")
        return Outcome("not_asked", None, threshold, "No champion in service yet: nothing to beat.")
    result = paired_gain(evaluation, "champion", threshold, {"champion": "the champion in service"})
    if gates.champion == "better" or result.status is not True or (decision.gains[0].gain or 0.0) > 0:
        return result
    message = f"{result.message} It is not ahead on these rows, and a tie is no reason to replace the model in service."
    return Outcome(False, result.measured, threshold, message)
