"""Gate: enough answers are given without a person at the promised error."""

from finetune_pipeline.evaluation.automation import rows_needed
from finetune_pipeline.evaluation.gates.base import LeastRows, Outcome, gate
from finetune_pipeline.evaluation.predictions import CANDIDATE
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.result_parts import Automation
from finetune_pipeline.evaluation.wording import capital, counted, percent, percent_range
from finetune_pipeline.spec.model import TaskSpec


def _least_rows(spec: TaskSpec) -> LeastRows | None:
    max_error = spec.automation.max_error
    if max_error is None:
        return None
    return LeastRows(rows_needed(max_error, 1 - spec.gates.confidence), "raise automation.max_error")


def promise_of(automation: Automation) -> str:
    """Say which share is answered without a person, with which error, and what is passed on."""
    passed_on = counted(automation.passed_on, "field" if automation.unit == "field" else "row")
    return (
        f"Answers {percent(automation.coverage)} ({percent_range(automation.coverage_interval)}) by itself, at most "
        f"{percent(automation.max_error)} wrong ({automation.mistakes:,} of {automation.answered:,} seen, surely at most "
        f"{percent(automation.upper_bound)}); passes on {passed_on}, among them {automation.mistakes_passed_on:,} of "
        f"{counted(automation.all_mistakes, 'mistake')}{_whole(automation.whole_coverage)}"
    )


def _whole(coverage: float | None) -> str:
    return "" if coverage is None else f"; {percent(coverage)} of rows pass on no field"


def why_not(automation: Automation) -> str:
    """Say what was seen where the promise could not be shown, which error could have been, and which test would show it."""
    most = f"at most {percent(automation.max_error)} wrong"
    if not automation.tested:
        return f"No answer on validation has a probability, so that {most} can be promised of none."
    first, what = automation.tested[0], "field" if automation.unit == "field" else "answer"
    sentences = [
        f"{capital(most)} could not be shown for any share of the {what}s. At the threshold that was tested first, "
        f"{first.mistakes:,} of {counted(first.answered, what)} were wrong, so at most {percent(first.upper_bound)} surely."
    ]
    if automation.attainable:
        sentences.append(
            f"Had it been promised, at most {percent(automation.attainable.max_error)} wrong could have been shown for "
            f"{percent(automation.attainable.coverage)}."
        )
    return " ".join(sentences)


def what_would_do(automation: Automation) -> str | None:
    """Say which test would probably show the promise; None if that is not known."""
    if automation.n < automation.needed:
        needed = counted(automation.needed, f"answered {'field' if automation.unit == 'field' else 'row'}")
        return f"Even without a mistake that takes {needed}: enlarge the test, or raise automation.max_error."
    if automation.rows_for_it and automation.rows_for_it > automation.n:
        return (
            f"With mistakes as rare as these, about {counted(automation.rows_for_it, 'test row')} would show it; now there are "
            f"{automation.n:,}."
        )
    return None


@gate(
    order=37,
    unasked=lambda spec: "The spec sets no automation.max_error." if spec.automation.max_error is None else "",
    trained_only="",
    least_rows=_least_rows,
    needs="A threshold of the answer's probability, chosen on validation, is certified on the sealed test: of the answers above it "
    "at most automation.max_error are wrong, with the chance of this judgement to be mistaken. Not asked if "
    "automation.max_error is unset.",
    default="unset",
    what_to_do="Add or correct training rows like those that are surely wrong, or enlarge the test: fewer mistakes are allowed the "
    "fewer rows are answered.",
)
def automation(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    max_error, of_model = spec.automation.max_error, evaluation.probabilities.get(CANDIDATE)
    assert max_error is not None
    promise = of_model.automation if of_model else None
    if promise is None:
        return Outcome(False, None, max_error, "The probabilities of the answers were not measured.")
    if promise.threshold is not None:
        return Outcome(True, promise.upper_bound, promise.max_error, f"{promise_of(promise)}.")
    measured = promise.tested[0].upper_bound if promise.tested else None
    return Outcome(False, measured, promise.max_error, why_not(promise), what_would_do(promise))
