"""Checks of preference rows."""

from finetune_pipeline.data.preferences.making import PreferenceFacts
from finetune_pipeline.engine.checks import CheckResult, check
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.spec.model import TaskSpec

LEAST_SWAPPED = 5
"""Pairs against the training rows that are no accident where they are most of those that can be compared."""


@check("Every preference row is kept, refused or left out.", name="preferences_accounted_for")
def preferences_accounted(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    facts = artifact.read(PreferenceFacts)
    came, went = facts.of_files + facts.logged, facts.kept + facts.refused + sum(facts.left_out.values())
    left_out = came - facts.kept - facts.refused
    message = f"{came} rows read or logged: {facts.kept} kept, {facts.refused} refused, {left_out} left out"
    return CheckResult(came == went, message, {"left_out": facts.left_out, "unused": facts.unused, "held": facts.held})


@check("There are enough preferences for a second stage.", on_failure="warn")
def enough_preferences(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    facts = artifact.read(PreferenceFacts)
    if facts.too_few:
        return CheckResult(False, f"{facts.too_few}. The model of the first stage goes on alone.")
    more, fewer = sorted((facts.liked, facts.disliked), reverse=True)
    weighed = ""
    if spec.training.refine.method == "kto" and more != fewer:
        weighed = f"; each of the rarer kind weighs {more / fewer:.1f} times as much"
    return CheckResult(True, f"{facts.pairs} pairs; {facts.liked} liked and {facts.disliked} disliked answers{weighed}")


@check("Liked and disliked answers are not swapped.", name="pairs_not_swapped")
def not_swapped(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    facts = artifact.read(PreferenceFacts)
    against, comparable = facts.against_training, facts.comparable
    message = f"{against} of {comparable} rows that can be compared with training rows dislike what these answer"
    if against >= LEAST_SWAPPED and 2 * against > comparable:
        return CheckResult(False, f"{message}: see whether `chosen` and `rejected`, or true and false, are swapped")
    return CheckResult(True, message)
