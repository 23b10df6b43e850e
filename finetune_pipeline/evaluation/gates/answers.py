"""Gates on the answers to the sealed test, and on its openings."""

from finetune_pipeline.evaluation.gates.base import DEFAULTS, Outcome, gate
from finetune_pipeline.evaluation.result import EvaluationResult, Seal
from finetune_pipeline.evaluation.statistics.power import rows_needed_for_share
from finetune_pipeline.evaluation.wording import counted, percent, percent_range, points
from finetune_pipeline.spec.model import TaskSpec


@gate(
    order=50,
    needs="of the rows the champion has right, the upper bound of the share the candidate gets wrong at or below "
    "gates.max_regression; not asked without a champion",
    default=f"{DEFAULTS.max_regression:g}",
    holds_back="champion",
    what_to_do="Read the regressions against the champion in the report. Put rows like them into the training data, or train from "
    "more of the same data; raise gates.max_regression only if those losses are acceptable.",
)
def few_regressions(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    limit = spec.gates.max_regression
    comparison = evaluation.comparisons.get("champion")
    if comparison is None:
        if evaluation.versions.get("champion"):
            return Outcome(False, None, limit, "There is a champion, but it was not compared.")
        return Outcome("not_asked", None, limit, "No champion in service yet: nothing to lose.")
    lost, right, interval = comparison.b, comparison.right_before, comparison.lost_interval
    if right == 0:
        return Outcome(True, 0.0, limit, "The champion has no test row right: nothing to lose.")
    if lost is None or right is None or interval is None:
        return Outcome(False, None, limit, "Regressions against the champion were not counted.")
    message = (
        f"Of {counted(right, 'row')} the champion has right the candidate gets {lost:,} wrong, "
        f"{percent(lost / right)} ({percent_range(interval)}); surely at most {percent(limit)} are allowed."
    )
    best = comparison.least_lost
    if best is not None and best > limit:
        message += f" With so few rows even a candidate that loses none could not show less than {percent(best)}."
    return Outcome(interval[1] <= limit, interval[1], limit, message)


@gate(
    order=60,
    needs="every example of gates.never_break is in the sealed test and answered correctly",
    default="no example listed",
    holds_back="champion",
    what_to_do="Look at the answers to these examples in the report. Add training rows like them, never these themselves; take an "
    "id off gates.never_break only if its answer no longer matters.",
)
def never_break(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    listed, missing, broken = (getattr(evaluation.never_break, key) for key in ("listed", "missing", "broken"))
    if listed is None or missing is None or broken is None:
        return Outcome(False, None, 0.0, "The never-break list was not checked.")
    if not listed:
        return Outcome("not_asked", 0, 0.0, "No example is listed in gates.never_break.")
    failed = len(missing) + len(broken)
    if not failed:
        verb = "is" if listed == 1 else "are all"
        return Outcome(True, 0, 0.0, f"{counted(listed, 'listed example')} {verb} right.")
    message = f"Of {counted(listed, 'listed example')} {len(broken)} wrong"
    message += f": {_some(broken)}" if broken else ""
    if missing:
        message += f"; {len(missing)} not in the sealed test, so nobody knows: {_some(missing)} "
        message += "(ids stand in the report and in predictions.parquet)"
    return Outcome(False, failed, 0.0, f"{message}.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@gate(
    order=70,
    needs="the lower bound of the share of valid answers at or above gates.min_valid_share",
    default=f"{DEFAULTS.min_valid_share:g}, so at least "
    f"{rows_needed_for_share(DEFAULTS.min_valid_share, DEFAULTS.confidence)} test rows",
    holds_back="champion",
    what_to_do="Look at the invalid answers in the report. Train longer, make the system prompt name the "
    "allowed answers, or restrict decoding to them; enlarge a test set too small to show it.",
)
def format_compliance(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    threshold = spec.gates.min_valid_share
    valid = evaluation.scores["candidate"].valid
    if not valid.n or valid.valid is None or valid.interval is None:
        return Outcome(False, None, threshold, "The share of valid answers could not be measured.")
    low = valid.interval[0]
    message = (
        f"{valid.valid:,} of {counted(valid.n, 'answer')} in the declared form, so surely {percent(low)} "
        f"or more of all; {percent(threshold)} are asked for."
    )
    needed = rows_needed_for_share(threshold, spec.gates.confidence)
    if low >= threshold or (needed is not None and valid.n >= needed):
        return Outcome(low >= threshold, low, threshold, message)
    if needed is None:
        message += " No finite test can show a share of 100%."
        return Outcome(False, low, threshold, message, to_do="Set gates.min_valid_share below 1.")
    enough = counted(needed, "row")
    message += f" Even without a single invalid answer that takes a test set of {enough}."
    to_do = f"Enlarge the test set to {enough} or more, or lower gates.min_valid_share."
    return Outcome(False, low, threshold, message, to_do=to_do)


@gate(
    order=90,
    needs="no answer of any compared model ended in an error",
    default="0",
    holds_back="champion",
    what_to_do="Read the error texts in the predictions (column error), fix the cause, and materialize test_predictions again.",
)
def no_failed_generation(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    scores = evaluation.scores
    compared = evaluation.comparisons.get("champion") is not None or "champion" in scores
    models = ["base", "candidate"] + (["champion"] if compared else [])
    errors = {model: scores[model].statuses.get("error") if model in scores else None for model in models}
    if unknown := [model for model, count in errors.items() if count is None]:
        return Outcome(False, None, 0.0, f"Failed answers were not counted for {', '.join(unknown)}.")
    failed = {model: count for model, count in errors.items() if count}
    if not failed:
        return Outcome(True, 0, 0.0, f"Every answer was generated ({', '.join(models)}).")
    total = sum(failed.values())
    of_models = ", ".join(f"{model} {count}" for model, count in failed.items())
    return Outcome(False, total, 0.0, f"{counted(total, 'answer')} could not be generated: {of_models}.")


@gate(
    order=100,
    reads=lambda evaluation: evaluation.seal,
    needs="the opening of the sealed test is on record; the number of openings is shown",
    default="1 or more",
    holds_back="champion",
    what_to_do="Materialize test_predictions, which records the opening. After many candidates on one "
    "test set, collect a new one.",
)
def sealed_test_openings(spec: TaskSpec, seal: Seal) -> Outcome:
    """The ledger knows of the opening this evaluation rests on; the message says how often the seal was broken, and
    what that leaves of the level."""
    count, candidates = seal.count, seal.candidates
    look, left, spent = seal.level.look, seal.level.level, seal.level.spent
    if not count or seal.recorded is not True or candidates is None or look is None or left is None:
        unknown = "No opening of the sealed test for this candidate is on record"
        return Outcome(False, count, 1.0, f"{unknown}, so nobody knows how often it was looked at.")
    message = (
        f"The sealed test was opened {'once' if count == 1 else f'{count} times'}, for "
        f"{counted(candidates, 'candidate')}; this is number {look}, judged by {100 * (1 - left):.4g}% intervals."
    )
    if look > 1 and spent is not None:
        bound = f"at most {percent(spent)}"
        message += f" The chance that it or one before it was promoted without being better is {bound}."
    if candidates > 1 and seal.optimism is not None and seal.optimism > 0:
        flattered = points(seal.optimism, sign=False)
        message += f" Choosing the best of them flatters its accuracy by up to {flattered} points."
    return Outcome(True, count, 1.0, message)
