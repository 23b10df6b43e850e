"""Gates on single rows: what the champion had right must not be lost, and some rows must never be wrong."""

from __future__ import annotations

from finetune_pipeline.evaluation.gate_result import GateResult, answer
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.statistics import wilson_interval
from finetune_pipeline.evaluation.wording import counted, percent, percent_range
from finetune_pipeline.spec.evaluation import GatesSpec
from finetune_pipeline.spec.model import TaskSpec

_D = GatesSpec.model_validate({})
ROW_GATES: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "few_regressions",
        "of the rows the champion has right, the upper bound of the share the candidate gets wrong at or below "
        "gates.max_regression; not asked without a champion",
        f"{_D.max_regression:g}",
        "champion",
        "Read the regressions against the champion in the report. Put rows like them into the training data, or train from "
        "more of the same data; raise gates.max_regression only if those losses are acceptable.",
    ),
    (
        "never_break",
        "every example of gates.never_break is in the sealed test and answered rightly",
        "no example listed",
        "champion",
        "Look at the answers to these examples in the report. Add training rows like them, never these themselves; take an "
        "id off gates.never_break only if its answer no longer matters.",
    ),
)
"""Name, needs, default, what is held back, what to do."""
_TO_DO = {row[0]: row[4] for row in ROW_GATES}


def few_regressions(spec: TaskSpec, evaluation: EvaluationResult) -> GateResult:
    """Upper bound of the share of lost rows, of those the champion has right, at or below gates.max_regression.

    The interval is Wilson's; where rows share sources, for the number of rows divided by the design effect of the
    comparison. Passes, saying so, where there is no champion, or one that has no row right.
    """
    name, limit = "few_regressions", spec.gates.max_regression
    comparison = evaluation.comparisons.get("champion")
    if comparison is None:
        if evaluation.versions.get("champion"):
            return answer(name, False, None, limit, "There is a champion, but it was not compared.", _TO_DO[name])
        return answer(name, "not_asked", None, limit, "No champion in service yet: nothing to lose.", "")
    lost, right, effect = comparison.b, comparison.right_before, comparison.design_effect
    if lost is None or right is None or effect is None or not 0 <= lost <= right or effect < 1:
        return answer(name, False, None, limit, "Regressions against the champion were not counted.", _TO_DO[name])
    if not right:
        return answer(name, True, 0.0, limit, "The champion has no test row right: nothing to lose.", _TO_DO[name])
    interval = wilson_interval(lost / effect, right / effect, spec.gates.confidence)
    message = (
        f"Of {counted(right, 'row')} the champion has right the candidate gets {lost:,} wrong, "
        f"{percent(lost / right)} ({percent_range(interval)}); surely at most {percent(limit)} are allowed."
    )
    best = wilson_interval(0, right / effect, spec.gates.confidence)[1]
    if best > limit:
        message += f" With so few rows even a candidate that loses none could not show less than {percent(best)}."
    return answer(name, interval[1] <= limit, interval[1], limit, message, _TO_DO[name])


def never_break(spec: TaskSpec, evaluation: EvaluationResult) -> GateResult:
    """Every listed example is in the test and the candidate has it right; passes, saying so, where none is listed."""
    name = "never_break"
    listed, missing, broken = (getattr(evaluation.never_break, key) for key in ("listed", "missing", "broken"))
    if listed is None or missing is None or broken is None:
        return answer(name, False, None, 0.0, "The never-break list was not looked at.", _TO_DO[name])
    if not listed:
        return answer(name, "not_asked", 0, 0.0, "No example is listed in gates.never_break.", "")
    failed = len(missing) + len(broken)
    if not failed:
        verb = "is" if listed == 1 else "are all"
        return answer(name, True, 0, 0.0, f"{counted(listed, 'listed example')} {verb} right.", _TO_DO[name])
    message = f"Of {counted(listed, 'listed example')} {len(broken)} wrong"
    message += f": {_some([case.id for case in broken])}" if broken else ""
    if missing:
        message += (
            f"; {len(missing)} not in the sealed test, so nobody knows: {_some(missing)} "
            "(ids stand in the report and in predictions.parquet)"
        )
    return answer(name, False, failed, 0.0, f"{message}.", _TO_DO[name])


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
