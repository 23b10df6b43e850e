"""Gate: enough answers are given without a person at the promised error."""

from finetune_pipeline.evaluation.automation import rows_needed
from finetune_pipeline.evaluation.gates.base import LeastRows, Outcome, gate
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.result_parts import Automation
from finetune_pipeline.evaluation.wording import counted, percent, percent_range
from finetune_pipeline.spec.model import TaskSpec


def _least_rows(spec: TaskSpec) -> LeastRows | None:
    max_error = spec.automation.max_error
    if max_error is None:
        return None
    return LeastRows(rows_needed(max_error, 1 - spec.gates.confidence), "raise automation.max_error")


def promise_of(automation: Automation) -> str:
    """Say which share is answered without a person, with which error, and what is passed on."""
    passed_on = counted(automation.passed_on, "row")
    return (
        f"Answers {percent(automation.coverage)} ({percent_range(automation.coverage_interval)}) by itself, at most "
        f"{percent(automation.max_error)} wrong ({automation.mistakes:,} of {automation.answered:,} seen, surely at most "
        f"{percent(automation.upper_bound)}); passes on {passed_on}, among them {automation.mistakes_passed_on:,} of "
        f"{counted(automation.all_mistakes, 'mistake')}"
    )


@gate(
    order=37,
    trained_only="The probability of its answers is not looked at: automation.max_error is promised of trained models alone.",
    least_rows=_least_rows,
    needs="A threshold of the answer's probability, chosen on validation, is certified on the sealed test: of the answers above it "
    "at most automation.max_error are wrong, with the chance of this judgement to be mistaken. Not asked if "
    "automation.max_error is unset.",
    default="unset",
    what_to_do="Add or correct training rows like those that are surely wrong, or enlarge the test: fewer mistakes are allowed the "
    "fewer rows are answered.",
)
def automation(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    promise = evaluation.automation
    if spec.automation.max_error is None:
        return Outcome("not_asked", None, None, "The spec sets no automation.max_error.")
    if promise is None:
        return Outcome(False, None, spec.automation.max_error, "The probabilities of the answers were not measured.")
    most = f"at most {percent(promise.max_error)} wrong"
    if promise.threshold is not None:
        return Outcome(True, promise.upper_bound, promise.max_error, f"{promise_of(promise)}.")
    if not promise.tested:
        message = f"No answer on validation has a probability, so that {most} can be promised of none."
        return Outcome(False, None, promise.max_error, message)
    first = promise.tested[0]
    message = (
        f"{most[0].upper()}{most[1:]} could not be shown for any share of the rows. At the threshold that was tested first, "
        f"{first.mistakes} of {counted(first.answered, 'answer')} were wrong, so at most {percent(first.upper_bound)} surely."
    )
    to_do = None
    if promise.n < promise.needed:
        needed = counted(promise.needed, "answered row")
        to_do = f"Even without a mistake that takes {needed}: enlarge the test, or raise automation.max_error."
    return Outcome(False, first.upper_bound, promise.max_error, message, to_do)
