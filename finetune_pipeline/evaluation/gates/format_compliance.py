"""Gate: enough answers are in the declared form."""

from finetune_pipeline.evaluation.gates.base import DEFAULTS, LeastRows, Outcome, gate
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.statistics.power import rows_needed_for_share
from finetune_pipeline.evaluation.wording import counted, percent
from finetune_pipeline.spec.model import TaskSpec

LABELLERS = {"classifier", "simple", "restricted"}
"""What can answer nothing but one of a task's labels: methods of training, and what finalists.as_candidate calls a finalist."""


def _least_rows(spec: TaskSpec) -> LeastRows | None:
    if spec.output.kind == "labels" and spec.training.method in LABELLERS:
        return None
    return _rows_without_a_fault(spec)


def _rows_without_a_fault(spec: TaskSpec) -> LeastRows:
    share = spec.gates.min_valid_share
    return LeastRows(rows_needed_for_share(share, spec.gates.confidence), "lower gates.min_valid_share")


@gate(
    order=70,
    trained_only="",
    least_rows=_least_rows,
    needs="The lower bound of the share of valid answers is at or above gates.min_valid_share, or the model can answer nothing but "
    "one of the labels.",
    default=f"{DEFAULTS.min_valid_share:g}, so at least "
    f"{rows_needed_for_share(DEFAULTS.min_valid_share, DEFAULTS.confidence)} test rows",
    what_to_do="Look at the invalid answers in the report. Train longer, make the system prompt name the "
    "allowed answers, or set evaluation.constrained_decoding for JSON; enlarge a test set too small to show it.",
)
def format_compliance(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    threshold = spec.gates.min_valid_share
    valid = evaluation.scores["candidate"].valid
    if not valid.n or valid.k is None or valid.interval is None:
        return Outcome(False, None, threshold, "The share of valid answers could not be measured.")
    if valid.k == valid.n and evaluation.task.kind == "labels" and evaluation.task.method in LABELLERS:
        return Outcome(
            True,
            1.0,
            threshold,
            f"All {counted(valid.n, 'answer')} in the declared form: it can answer nothing but one of the labels.",
        )
    low = valid.interval[0]
    message = (
        f"{valid.k:,} of {counted(valid.n, 'answer')} in the declared form, so surely {percent(low)} "
        f"or more of all; {percent(threshold)} are asked for."
    )
    needed = _rows_without_a_fault(spec).rows
    if low >= threshold or (needed is not None and valid.n >= needed):
        return Outcome(low >= threshold, low, threshold, message)
    if needed is None:
        message += " No finite test can show a share of 100%."
        return Outcome(False, low, threshold, message, to_do="Set gates.min_valid_share below 1.")
    enough = counted(needed, "row")
    message += f" Even without a single invalid answer that takes a test set of {enough}."
    to_do = f"Enlarge the test set to {enough} or more, or lower gates.min_valid_share."
    return Outcome(False, low, threshold, message, to_do=to_do)
