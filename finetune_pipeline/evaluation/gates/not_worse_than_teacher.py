"""Gate: the candidate is not worse than the teacher whose answers it learned."""

from finetune_pipeline.evaluation.deciding import MIN_ROWS
from finetune_pipeline.evaluation.gates.base import DEFAULTS, Outcome, gate
from finetune_pipeline.evaluation.gates.paired_gains import one_gain, worst_gain
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.wording import counted, points
from finetune_pipeline.spec.model import TaskSpec


@gate(
    order=45,
    unasked=lambda spec: "" if spec.teacher else "No teacher is declared.",
    needs="The lower bound of the paired gain over the teacher is above minus gates.teacher_margin, in gates.metric and every "
    "one of gates.more_metrics. Not asked without a teacher.",
    default=f"{DEFAULTS.teacher_margin:g}, {100 * DEFAULTS.confidence:g}% interval for the first candidate",
    what_to_do="Keep the teacher in service. Let it answer more rows (teacher.rows), or have people answer more test rows if the "
    "interval is wide. Raise gates.teacher_margin only if that loss is worth the lower price.",
)
def not_worse_than_teacher(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    threshold, rival = -spec.gates.teacher_margin, evaluation.teacher
    measured = worst_gain(rival.decision.gains) if rival and rival.decision else None
    if rival is None or rival.decision is None or measured is None or rival.decision.margin != threshold:
        answered = f": it answered {counted(rival.n, 'row')}, and {MIN_ROWS} are needed" if rival else ""
        return Outcome(False, None, threshold, f"The candidate was not compared with the teacher{answered}.")
    (low, _), _ = measured
    gains = "; ".join(one_gain(gain, {"teacher": "the teacher"}) for gain in rival.decision.gains)
    message = f"Against {gains} ({counted(rival.n, 'row')}). The lower bound must lie above {points(threshold)}."
    return Outcome(rival.decision.shown is True and low > threshold, low, threshold, message)
