"""Gate: the sealed test confirms that the second stage's model is better than the first stage's."""

import math

from finetune_pipeline.evaluation.gates.base import DEFAULTS, Outcome, gate
from finetune_pipeline.evaluation.gates.paired_gains import level_note
from finetune_pipeline.evaluation.metrics import is_right_or_wrong
from finetune_pipeline.evaluation.refined_choice import NO_GAIN, SUPERVISED
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.statistics.power import rows_needed_for_gain, rows_needed_for_mean
from finetune_pipeline.evaluation.statistics.proportions import z_value
from finetune_pipeline.evaluation.wording import counted, points
from finetune_pipeline.spec.model import TaskSpec

_FIRST_STAGE = (
    "set training.refine.method: none and run the task again: the first stage's model is trained already, and is then the next "
    "candidate"
)


@gate(
    order=35,
    unasked=lambda spec: "" if spec.training.refine.is_on else "No second stage is declared (training.refine).",
    needs="Where the second stage's model goes on, it must surely beat the first stage's on the sealed test, too: the lower bound "
    "of the paired gain in the task's metric is above zero and, for shares of right answers, the exact McNemar test agrees. It "
    "surely loses no form, and text is not surely longer beyond the references and has learnt no phrase that they lack. Where "
    "people, or they and the judge, preferred its answers, it needs no gain; where people did, it may have learnt a phrase. "
    "Not asked where the first stage's model goes on.",
    default=f"{100 * DEFAULTS.confidence:g}% interval for the first candidate; a tie does not pass",
    what_to_do=f"To ship the first stage's model, {_FIRST_STAGE}. Or collect more preferences, and more test rows if the interval "
    "is wide.",
)
def beats_supervised(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    refinement = evaluation.training.refinement if evaluation.training else None
    chosen, stages = refinement.choice if refinement else None, evaluation.stages
    if refinement is not None and (chosen is None or not chosen.refined):
        return Outcome("not_asked", None, None, "The first stage's model goes on: there is nothing to confirm.")
    is_liked = chosen is not None and chosen.liked
    threshold = None if is_liked else 0.0
    if chosen is None or stages is None or stages.gain.interval is None:
        message = "The second stage's model was not compared with the first stage's on the sealed test."
        return Outcome(False, None, threshold, message)
    message = stages.sentence + level_note(evaluation)
    if stages.reasons == [NO_GAIN]:
        message += _rows_needed(evaluation)
    to_do = None
    if spec.output.kind == "text" and not is_liked:
        ask = f"Let people compare the answers: `finetune review {spec.name} --what refined`"
        to_do = f"{ask}. Or, to ship the first stage's model, {_FIRST_STAGE}."
    low, _ = stages.gain.interval
    return Outcome(stages.refined and (is_liked or low > 0), low, threshold, message, to_do)


def _rows_needed(evaluation: EvaluationResult) -> str:
    """Say how many rows would show the gain that was measured, if it is the true one."""
    compared, level = evaluation.comparisons.get(SUPERVISED), evaluation.seal.level.level or 0.05
    if compared is None or not compared.gain or compared.gain <= 0:
        return ""
    if is_right_or_wrong(compared.metric):
        rows = rows_needed_for_gain(compared.gain, compared.discordant_share or 1.0, alpha=level)
        rows = round(rows * (compared.design_effect or 1.0))
    elif compared.interval is not None:
        half_width = (compared.interval[1] - compared.interval[0]) / 2
        deviation = half_width * math.sqrt(compared.n) / z_value(compared.confidence)
        rows = rows_needed_for_mean(compared.gain, deviation, alpha=level)
    else:
        return ""
    if rows <= compared.n:
        return ""
    return (
        f" A true gain of {points(compared.gain, sign=False)} points would be shown four times in five on "
        f"{counted(rows, 'row')}; the test has {compared.n:,}."
    )
