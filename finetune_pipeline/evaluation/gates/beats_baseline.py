"""Gate: the candidate is better than the base model with its best prompt."""

from dataclasses import replace

from finetune_pipeline.evaluation.gates.base import DEFAULTS, Outcome, gate
from finetune_pipeline.evaluation.gates.paired_gains import paired_gain
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.rivals import MIN_IN_FORM
from finetune_pipeline.evaluation.wording import percent, prompt_name
from finetune_pipeline.spec.model import TaskSpec


@gate(
    order=10,
    trained_only="What another finalist surely beats is not chosen.",
    needs="The lower bound of the paired gain over the base model at its best (its best prompt as it answers, and its answers "
    "restricted to the allowed forms) is above gates.min_gain, in gates.metric and every one of gates.more_metrics. Where "
    f"fewer than {100 * MIN_IN_FORM:g}% of its answers are in form, the restricted answers decide alone.",
    default=f"{DEFAULTS.min_gain:g} points, {100 * DEFAULTS.confidence:g}% interval for the first candidate; a tie does not pass",
    what_to_do="Read the regressions and wrong answers in the report; add or correct training rows like those that fail. If the "
    "interval is wide, enlarge the test set.",
)
def beats_baseline(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    best = prompt_name(evaluation.baseline.best)
    names = {
        "free": f"the base model with its {best} prompt",
        "restricted": "the same model with its answers restricted to the allowed forms",
    }
    result = paired_gain(evaluation, "baseline", spec.gates.min_gain, names)
    base = evaluation.base_at_its_best
    if spec.output.kind == "text" or base.valid_share is None or base.valid_share >= MIN_IN_FORM:
        return result
    why = f"Only {percent(base.valid_share)} of the base model's answers are in form"
    if base.mode == "restricted":
        why += ", so free answers are no fair rival; its restricted answers decide. "
    else:
        why += ", and this engine cannot restrict them: the gain may be one of form alone. "
    return replace(result, message=why + result.message)
