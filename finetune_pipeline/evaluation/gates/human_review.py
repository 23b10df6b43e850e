"""Gate: people accept enough of the answers."""

from finetune_pipeline.evaluation.gates.base import DEFAULTS, LeastRows, Outcome, gate
from finetune_pipeline.evaluation.preferences.people import People
from finetune_pipeline.evaluation.statistics.power import rows_needed_for_share
from finetune_pipeline.evaluation.wording import counted, percent, percent_range
from finetune_pipeline.spec.model import TaskSpec


def _least_rows(spec: TaskSpec) -> LeastRows | None:
    if not spec.gates.min_rated:
        return None
    accepted = rows_needed_for_share(spec.gates.min_accepted)
    if accepted is None or accepted > spec.gates.min_rated:
        return LeastRows(accepted, "lower gates.min_accepted")
    return LeastRows(spec.gates.min_rated, "lower gates.min_rated")


@gate(
    order=130,
    unasked=lambda spec: "" if spec.gates.min_rated else "The spec asks for no human review.",
    trained_only="",
    least_rows=_least_rows,
    reads=lambda evaluation: evaluation.people,
    needs="People judged gates.min_rated answers drawn at random, and the lower bound of the accepted share is at or above "
    "gates.min_accepted. Not asked if gates.min_rated is 0.",
    default=f"{DEFAULTS.min_rated:d}, {DEFAULTS.min_accepted:g}",
    what_to_do="Open `finetune review TASK`, or have more people judge the sheet. Where they refuse answers, read their comments "
    "in the report and add training rows like the ones that were refused.",
)
def human_review(spec: TaskSpec, people: People | None) -> Outcome:
    min_rated, required_share = spec.gates.min_rated, spec.gates.min_accepted
    ratings = people.random if people else None
    n, accepted = ratings.n if ratings else 0, ratings.candidate if ratings else None
    if n < min_rated or accepted is None:
        message = f"People have judged {n} of {min_rated} answers drawn at random."
        return Outcome(False, None, required_share, message)
    interval = accepted.interval
    message = (
        f"People accept {percent(accepted.share)} of {counted(n, 'answer')} drawn at random ({percent_range(interval)}); surely "
        f"{percent(required_share)} are asked for."
    )
    return Outcome(interval[0] >= required_share, interval[0], required_share, message)
