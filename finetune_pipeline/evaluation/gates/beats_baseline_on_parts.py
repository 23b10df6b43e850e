"""Gate: the gain also holds on the rows of each raw file in gates.parts."""

from finetune_pipeline.evaluation.deciding import MIN_ROWS
from finetune_pipeline.evaluation.gates.base import Outcome, gate
from finetune_pipeline.evaluation.gates.paired_gains import worst_gain
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.wording import counted, points, points_range
from finetune_pipeline.spec.model import TaskSpec


@gate(
    order=15,
    unasked=lambda spec: "" if spec.gates.parts else "The spec names no files in gates.parts.",
    trained_only="It asks for the gain of training.",
    needs="The lower bound of the paired gain over the base model at its best is above gates.min_gain on the test rows of each "
    f"file of gates.parts alone. Fewer than {MIN_ROWS} rows do not pass. Not asked if gates.parts is empty.",
    default="no parts",
    what_to_do="The model has learned one kind of row, and not this one: add training rows of its kind. With too few test rows "
    "of it, collect more of them.",
)
def beats_baseline_on_parts(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    threshold = spec.gates.min_gain
    named = [part for part in evaluation.parts if part.files is not None]
    if [part.files for part in named] != spec.gates.parts:
        return Outcome(False, None, threshold, "The files of gates.parts were not evaluated separately.")
    sentences, lows, passed = [], [], True
    for part in named:
        measured = worst_gain(part.decision.gains) if part.decision else None
        if part.decision is None or measured is None:
            why = f"{MIN_ROWS} are needed" if part.decision is None else "from too few sources for an interval"
            sentences.append(f"{part.files}: {counted(part.n, 'test row')}, {why}.")
            passed = False
            continue
        interval, worst = measured
        lows.append(interval[0])
        passed = passed and part.decision.shown is True and interval[0] > threshold
        sentences.append(
            f"{part.files}: {points(worst.gain)} points ({points_range(interval)}, {counted(part.n, 'row')})."
        )
    least = points(threshold, sign=False) if threshold else "zero"
    message = f"{' '.join(sentences)} The lower bounds must lie above {least}."
    return Outcome(passed, min(lows, default=None), threshold, message)
