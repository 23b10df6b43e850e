"""Gate: the candidate is better than the champion, or not worse if the spec allows that."""

from finetune_pipeline.evaluation.deciding import margin_of
from finetune_pipeline.evaluation.decisions import Decision
from finetune_pipeline.evaluation.gates.base import DEFAULTS, Outcome, gate
from finetune_pipeline.evaluation.gates.paired_gains import champion_not_compared, one_gain, paired_gain, worst_gain
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.wording import points
from finetune_pipeline.spec.model import TaskSpec

_CHAMPION = {"champion": "the champion in service"}


@gate(
    order=40,
    trained_only="",
    needs="The lower bound of the paired gain over the champion is above zero (gates.champion: better), or is above minus "
    "gates.champion_margin and the candidate is ahead (not_worse). A champion that was trained on forgotten rows is replaced "
    "unless the candidate surely loses more than gates.champion_margin. Not asked without a champion.",
    default=f"{DEFAULTS.champion}, {100 * DEFAULTS.confidence:g}% interval for the first candidate; a tie does not pass",
    what_to_do="Keep the champion. Look at the regressions against it; retrain with the production rows that it gets wrong.",
)
def beats_champion(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    gates = spec.gates
    threshold = margin_of(gates.champion, gates.champion_margin)
    decision = evaluation.decisions.champion
    if decision is None:
        if evaluation.versions.get("champion"):
            return champion_not_compared(evaluation, threshold)
        return Outcome("not_asked", None, threshold, "No champion in service yet: nothing to beat.")
    if evaluation.champion_forgotten:
        return _against_forgotten(spec, decision)
    result = paired_gain(evaluation, "champion", threshold, _CHAMPION)
    if gates.champion == "better" or result.status is not True or (decision.gains[0].gain or 0.0) > 0:
        return result
    message = f"{result.message} It is not ahead on these rows, and a tie is no reason to replace the model in service."
    return Outcome(False, result.measured, threshold, message)


def _against_forgotten(spec: TaskSpec, decision: Decision) -> Outcome:
    """Refuse only a sure loss larger than the margin: a champion trained on forgotten rows has to go, so doubt is no reason to
    keep it. The measured number is the smallest gain."""
    margin = spec.gates.champion_margin
    if worst_gain(decision.gains) is None:
        return Outcome(False, None, -margin, "The gain over the champion in service could not be measured.")
    gains = {gain.metric: (gain.gain or 0.0, gain.interval or (0.0, 0.0)) for gain in decision.gains}
    lost = [metric for metric, (gain, interval) in gains.items() if interval[1] < 0 and gain < -margin]
    message = (
        f"Against {'; '.join(one_gain(gain, _CHAMPION) for gain in decision.gains)}. The champion was trained on forgotten rows: "
        f"only a sure loss of more than {points(margin, sign=False)} points (gates.champion_margin) keeps it in service."
    )
    to_do = (
        "Train again, until a model without the forgotten rows is not surely worse: the champion has to be replaced. Read the "
        "regressions against it in the report. A higher gates.champion_margin accepts the loss."
    )
    return Outcome(not lost, min(gain for gain, _ in gains.values()), -margin, message, to_do)
