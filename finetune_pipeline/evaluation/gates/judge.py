"""Gate: a judge model that agrees with people prefers the candidate."""

from finetune_pipeline.evaluation.gates.base import DEFAULTS, LeastRows, Outcome, gate
from finetune_pipeline.evaluation.preferences.judge import JudgeFindings
from finetune_pipeline.evaluation.statistics.power import rows_needed_for_share
from finetune_pipeline.evaluation.wording import counted, percent, percent_range
from finetune_pipeline.spec.model import TaskSpec


def _least_rows(spec: TaskSpec) -> LeastRows | None:
    """The judge decides evaluation.judge.rows pairs at most."""
    share, settings = spec.gates.min_preferred, spec.evaluation.judge
    if not share or settings is None:
        return None
    rows = rows_needed_for_share(share, spec.gates.confidence)
    if rows is not None and rows > settings.rows:
        return LeastRows(None, f"raise evaluation.judge.rows to {rows} or more, or lower gates.min_preferred")
    return LeastRows(rows, "lower gates.min_preferred")


@gate(
    order=110,
    unasked=lambda spec: "" if spec.gates.min_preferred else "The spec asks for no judge.",
    trained_only="The judge compares the fine-tuned model with the base model.",
    least_rows=_least_rows,
    reads=lambda evaluation: evaluation.judge,
    needs="The judge (evaluation.judge) agrees with people, and the lower bound of the share of decided pairs in which it "
    "prefers the candidate to the base is at or above gates.min_preferred. Not asked if gates.min_preferred is 0.",
    default=f"{DEFAULTS.min_preferred:g}",
    what_to_do="Where the judge is not believed: have people rate more pairs (`finetune review TASK`), or take another judging "
    "model. Where it is: read the pairs it decides against the candidate, and add training rows like them.",
)
def judge(spec: TaskSpec, findings: JudgeFindings | None) -> Outcome:
    required_share = spec.gates.min_preferred
    if findings is None or not findings.believed:
        why = "; ".join(findings.refused if findings else []) or "none was asked"
        return Outcome(False, None, required_share, f"No judge can be trusted: {why}.")
    preferred = findings.verdict
    if preferred is None or preferred.share is None or preferred.interval is None:
        return Outcome(False, None, required_share, "The judge decided no pair.")
    low = preferred.interval[0]
    message = (
        f"The judge prefers the fine-tuned answer in {percent(preferred.share)} of "
        f"{counted(preferred.wins + preferred.losses, 'decided pair')} ({percent_range(preferred.interval)}); surely "
        f"{percent(required_share)} are asked for."
    )
    return Outcome(low >= required_share, low, required_share, message)
