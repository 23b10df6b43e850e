"""Gate: the opening of the sealed test is on record."""

from finetune_pipeline.evaluation.gates.base import Outcome, gate
from finetune_pipeline.evaluation.result import Seal
from finetune_pipeline.evaluation.wording import counted, percent, points
from finetune_pipeline.spec.model import TaskSpec


def opening_sentences(seal: Seal) -> str | None:
    """The number of openings and candidates, and the level that they leave. None if these are unknown."""
    count, candidates, look, level = seal.count, seal.candidates, seal.level.look, seal.level.level
    if not count or candidates is None or look is None or level is None:
        return None
    message = (
        f"The sealed test was opened {'once' if count == 1 else f'{count} times'}, for "
        f"{counted(candidates, 'candidate')}; this is judgement {look}, by {100 * (1 - level):.4g}% intervals."
    )
    if look > 1 and seal.level.spent is not None:
        spent = percent(seal.level.spent)
        message += f" The chance that it or one before it was promoted without being better is at most {spent}."
    if candidates > 1 and seal.optimism is not None and seal.optimism > 0:
        inflation = points(seal.optimism, sign=False)
        message += f" Choosing the best of them flatters its accuracy by up to {inflation} points."
    return message


@gate(
    order=100,
    trained_only="",
    reads=lambda evaluation: evaluation.seal,
    needs="The opening of the sealed test is on record. The number of openings is shown.",
    default="1 or more",
    what_to_do="Materialize test_predictions, which records the opening. After many candidates on one "
    "test set, collect a new one.",
)
def sealed_test_openings(spec: TaskSpec, seal: Seal) -> Outcome:
    """Check that the ledger records the opening behind this evaluation."""
    message = opening_sentences(seal)
    if message is None or seal.recorded is not True:
        unknown = "No opening of the sealed test is recorded for this candidate, so the number of its uses is unknown."
        return Outcome(False, seal.count, 1.0, unknown)
    return Outcome(True, seal.count, 1.0, message)
