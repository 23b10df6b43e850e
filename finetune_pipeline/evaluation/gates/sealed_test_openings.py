"""Gate: the opening of the sealed test is on record."""

from finetune_pipeline.evaluation.gates.base import Outcome, gate
from finetune_pipeline.evaluation.result import Seal
from finetune_pipeline.evaluation.wording import counted, percent, points
from finetune_pipeline.spec.model import TaskSpec


@gate(
    order=100,
    reads=lambda evaluation: evaluation.seal,
    needs="the opening of the sealed test is on record; the number of openings is shown",
    default="1 or more",
    what_to_do="Materialize test_predictions, which records the opening. After many candidates on one "
    "test set, collect a new one.",
)
def sealed_test_openings(spec: TaskSpec, seal: Seal) -> Outcome:
    """Check that the ledger records the opening behind this evaluation. The message tells the number of openings and the level
    they leave."""
    count, candidates = seal.count, seal.candidates
    look, level, spent = seal.level.look, seal.level.level, seal.level.spent
    if not count or seal.recorded is not True or candidates is None or look is None or level is None:
        unknown = "No opening of the sealed test is recorded for this candidate, so the number of its uses is unknown."
        return Outcome(False, count, 1.0, unknown)
    message = (
        f"The sealed test was opened {'once' if count == 1 else f'{count} times'}, for "
        f"{counted(candidates, 'candidate')}; this is number {look}, judged by {100 * (1 - level):.4g}% intervals."
    )
    if look > 1 and spent is not None:
        message += (
            f" The chance that it or one before it was promoted without being better is at most {percent(spent)}."
        )
    if candidates > 1 and seal.optimism is not None and seal.optimism > 0:
        inflation = points(seal.optimism, sign=False)
        message += f" Choosing the best of them flatters its accuracy by up to {inflation} points."
    return Outcome(True, count, 1.0, message)
