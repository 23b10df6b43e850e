"""Gate: the examples in gates.never_break are answered correctly."""

from finetune_pipeline.evaluation.gates.base import Outcome, gate
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.wording import counted
from finetune_pipeline.spec.model import TaskSpec


@gate(
    order=60,
    unasked=lambda spec: "" if spec.gates.never_break else "No example is listed in gates.never_break.",
    trained_only="",
    needs="Every example of gates.never_break is in the sealed test and answered correctly.",
    default="no example listed",
    what_to_do="Look at the answers to these examples in the report. Add training rows like them, never these themselves; take an "
    "id off gates.never_break only if its answer no longer matters.",
)
def never_break(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    checked = evaluation.never_break
    listed_count, missing, broken = checked.listed, checked.missing, checked.broken
    if listed_count is None or missing is None or broken is None:
        return Outcome(False, None, 0.0, "The never-break list was not checked.")
    if not listed_count:
        return Outcome("not_asked", 0, 0.0, "The file of gates.never_break lists no example.")
    failed = len(missing) + len(broken)
    if not failed:
        verb = "is" if listed_count == 1 else "are all"
        return Outcome(True, 0, 0.0, f"{counted(listed_count, 'listed example')} {verb} right.")
    message = f"Of {counted(listed_count, 'listed example')} {len(broken)} wrong"
    message += f": {_listed(broken)}" if broken else ""
    if missing:
        message += (
            f"; {len(missing)} not in the sealed test and therefore unknown: {_listed(missing)} "
            "(the report and predictions.parquet list the ids of the test)"
        )
    return Outcome(False, failed, 0.0, f"{message}.")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
