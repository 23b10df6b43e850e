"""Gate: the candidate is better than the simple models."""

from dataclasses import replace

from finetune_pipeline.evaluation.deciding import margin_of
from finetune_pipeline.evaluation.gates.base import DEFAULTS, Outcome, gate
from finetune_pipeline.evaluation.gates.paired_gains import paired_gain
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.wording import inside
from finetune_pipeline.spec.model import TaskSpec


def tied_with(evaluation: EvaluationResult) -> list[str]:
    """Titles of the simple models that the candidate does not significantly beat in every metric, in the order of SIMPLE_MODELS."""
    gains = evaluation.decisions.simple.gains
    tied = [gain.rival for gain in gains if gain.interval is None or gain.interval[0] <= 0]
    return [SIMPLE_MODELS[rival].title for rival in dict.fromkeys(tied)]


@gate(
    order=30,
    trained_only="What another finalist surely beats is not chosen.",
    needs="The lower bound of the paired gain over each simple model ("
    + ", ".join(inside(model.title) for model in SIMPLE_MODELS.values())
    + ") is above zero (gates.simple: better), or above minus gates.simple_margin (not_worse), in gates.metric and every one of "
    "gates.more_metrics.",
    default=f"{DEFAULTS.simple}, {100 * DEFAULTS.confidence:g}% interval for the first candidate; a tie does not pass",
    what_to_do="The simple model is shipped instead where it passes its own gates. Train longer or on more rows, until the "
    "language model is surely better. gates.simple: not_worse takes a tie, where you want one model for other reasons (but "
    "coverage, as gates.metric, takes none).",
)
def beats_simple(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    threshold = margin_of(spec.gates.simple, spec.gates.simple_margin)
    titles = {name: inside(model.title) for name, model in SIMPLE_MODELS.items()}
    result = paired_gain(evaluation, "simple", threshold, titles)
    if result.status is True and (tied := tied_with(evaluation)):
        tied_titles = " and ".join(map(inside, tied))
        message = f"{result.message} This is a tie with {tied_titles}, which gates.simple: not_worse takes."
        return replace(result, message=message)
    return result
