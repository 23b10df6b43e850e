"""Gate: the candidate keeps the base model's general ability."""

import math

from finetune_pipeline.evaluation.ability.drop import Ability
from finetune_pipeline.evaluation.gates.base import DEFAULTS, Outcome, gate
from finetune_pipeline.evaluation.wording import counted, points, points_range
from finetune_pipeline.spec.model import TaskSpec


@gate(
    order=120,
    unasked=lambda spec: (
        "" if spec.ability.suite or spec.ability.files else "The spec asks for no test of general ability."
    ),
    trained_only="No weights of the base model were changed.",
    reads=lambda evaluation: evaluation.ability,
    needs="The upper bound of the accuracy lost on questions besides the task is below gates.max_ability_loss, no benchmark of "
    "your own surely loses as much, and the upper bound of the relative rise of the bits that plain text costs is below "
    "gates.max_text_loss. Not asked if the spec asks nothing, the model answers at an endpoint, or it is a classifier.",
    default=f"{DEFAULTS.max_ability_loss:g}, {DEFAULTS.max_text_loss:g}",
    what_to_do="Train more gently: fewer epochs, a lower learning rate, a smaller rank, or qlora or lora in place of full. Mix "
    "some general examples into the training data. If only this one task will ever be asked of the model, raise the limits.",
)
def general_ability(spec: TaskSpec, ability: Ability | None) -> Outcome:
    """Refuse a candidate that may have lost too much; the measured number is the upper bound of the lost accuracy."""
    limit = spec.gates.max_ability_loss
    if ability is not None and ability.items == 0 and ability.not_asked:
        return Outcome("not_asked", None, limit, ability.not_asked)
    if ability and ability.failed:
        return Outcome(False, None, limit, f"{counted(len(ability.failed), 'item')} could not be scored.")
    if ability is None or ability.drop is None or ability.interval is None:
        return Outcome(False, None, limit, "General ability was not measured.")
    low, high = ability.interval
    if not all(map(math.isfinite, (ability.drop, low, high))):
        return Outcome(False, None, limit, "General ability was not measured.")
    message = (
        f"{points(-ability.drop)} points on {counted(ability.n, 'question')} besides the task "
        f"(interval {points_range((-high, -low))}); a loss of {points(limit, sign=False)} points must be ruled out."
    )
    passed = high < limit
    if not passed and low < limit:
        message += f" A loss that large is not shown either: {points(low)} to {points(high)} points may be lost."
    sure_losses = {name: loss.interval[0] if loss.interval else math.inf for name, loss in ability.benchmarks.items()}
    if too_large := {name: loss for name, loss in sure_losses.items() if loss >= limit}:
        lost = ", ".join(f"{name} surely loses {points(loss, sign=False)} points" for name, loss in too_large.items())
        message += f" Of the benchmarks, {lost}."
        passed = False
    if text := ability.text:
        if not text.before > 0 or text.interval is None or not all(map(math.isfinite, (text.rise, *text.interval))):
            return Outcome(False, None, limit, "The bits per byte on plain text were not measured.")
        bound, allowed = text.interval[1] / text.before, spec.gates.max_text_loss
        message += f" Plain text costs {text.rise / text.before:+.1%} bits (surely at most {bound:+.1%}; allowed {allowed:+.0%})."
        passed = passed and bound < allowed
    return Outcome(passed, high, limit, message)
