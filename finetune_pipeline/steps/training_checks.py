"""Checks of the BASELINE and TRAINING stages."""

import math
import re

import msgspec

from finetune_pipeline.baseline.decision import DECISIONS, Advised, Prospects
from finetune_pipeline.baseline.ladder import Ladder
from finetune_pipeline.data.preferences.making import PreferenceFacts
from finetune_pipeline.engine.checks import CheckResult, check
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.evaluation.gates import GATES
from finetune_pipeline.evaluation.rivals import Baseline
from finetune_pipeline.models.facts import MergedModel, PreparedBase
from finetune_pipeline.planning.plan import TrainingPlan
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.trainers import TRAINERS
from finetune_pipeline.training.audit import COUNTS
from finetune_pipeline.training.facts import HostedTraining, training_of
from finetune_pipeline.training.history import MUCH_RISE, validation_losses

NOT_WORTH_IT = "nothing was trained: something simpler is surely good enough (gates.worth_training)"
UNTRAINED = (
    "So nothing is trained: the sealed test decides whether that is shipped. With gates.worth_training: warn a model is trained "
    "and compared with it."
)
FOUR_BIT_LIMIT = 0.45
"""Maximum size of a 4-bit base's linear layers as a share of their 16-bit size: NF4 with double quantization takes 0.258
(4 bits and 0.127 bits of constants per parameter; Dettmers et al. 2023), more with tiny layers; 8 bits would take over 0.5.
Embeddings stay in 16 bits."""
LEAST_SWAPPED = 5
"""Pairs against the training rows that are no accident where they are most of those that can be compared."""


@check("Weights are safetensors; nothing in the folder can run code.")
def safe_weights(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    files = artifact.read(PreparedBase).files
    unsafe = [name for name in files if not name.endswith((".safetensors", ".json", ".jinja", ".txt", ".model"))]
    weights = [name for name in files if name.endswith(".safetensors")]
    message = f"files that could run code: {', '.join(unsafe)}" if unsafe else f"{len(weights)} safetensors files"
    return CheckResult(bool(weights) and not unsafe, message)


@check(
    "Neither prompting nor a simple model is already good enough.", on_failure=lambda spec: spec.gates.worth_training
)
def worth_training(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    worth = artifact.read(Advised).worth_training
    sentence, skips = worth.reason, worth.skips_training(spec)
    if skips:
        sentence += f" {UNTRAINED}"
    elif not worth.passed:
        sentence += " With gates.worth_training: warn a model is trained and compared with it on the sealed test."
    return CheckResult(worth.passed, sentence, {"best_prompt": worth.best}, warns=skips)


def why_untrained(advice: Artifact, spec: TaskSpec) -> str:
    """Return why nothing is trained, given the artifact `advice`; empty if a model is."""
    return NOT_WORTH_IT if advice.read(Advised).worth_training.skips_training(spec) else ""


@check(
    "The inputs predict the answers: something simple is significantly better than ignoring the input.",
    on_failure=lambda spec: spec.gates.learnable,
)
def learnable(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    signal = artifact.read(Prospects).learnable
    figures = {"status": signal.status, "rows": signal.rows, "rows_needed": signal.rows_needed}
    return CheckResult(signal.status in ("shown", "too_few_rows"), signal.sentence, figures)


@check(
    "The test set is large enough to show gates.wanted_gain, and for every gate to pass a candidate without a mistake.",
    on_failure=lambda spec: spec.gates.enough_test_rows,
)
def enough_test_rows(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    power = artifact.read(Prospects).power
    keys = ("test_rows", "rows_needed", "detectable_gain", "wanted_gain", "power_now", "obstacles")
    figures = power.to_json()
    return CheckResult(power.enough and not power.obstacles, power.sentence, {key: figures[key] for key in keys})


@check("The measurements before training favour fine-tuning.", on_failure="warn")
def advised(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    advice = artifact.read(Advised).advice
    return CheckResult(advice.fine_tune, advice.sentence, {"decision": advice.decision})


@check("The ladder's answer is certain.", name="answer_sure", on_failure="warn")
def answered(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    ladder = artifact.read(Ladder)
    return CheckResult(ladder.decision in DECISIONS and ladder.decision != "undecided", ladder.sentence)


@check("No generation failed.", name="generations_complete")
def baseline_answered(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    baseline = artifact.read(Baseline)
    errors = {name: prompt.statuses["error"] for name, prompt in baseline.prompts.items()}
    return CheckResult(
        baseline.failed == 0 and bool(errors), f"{baseline.failed} generations failed", {"errors": errors}
    )


@check("The estimated peak memory fits this machine.", name="fits_memory")
def plan_fits(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    plan, trainer = artifact.read(TrainingPlan), TRAINERS[spec.training.trainer]
    if not trainer.on_this_machine:
        return CheckResult(True, f"the trainer {trainer.name} does not use this machine's memory")
    figures = {key: getattr(plan, key) for key in ("memory_mib", "available_mib", "nearest", "others")}
    return CheckResult(plan.fits, plan.sentence, msgspec.to_builtins(figures))


@check("No example is longer than training.max_tokens.", name="nothing_truncated")
def no_truncation(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    over, limit = artifact.read(TrainingPlan).over_length, spec.training.max_tokens
    if spec.training.over_length != "fail":
        action = {"drop": "dropped", "truncate_prompt": "truncated in their user text"}[spec.training.over_length]
        return CheckResult(True, f"{over} examples over {limit} tokens will be {action} (training.over_length)")
    return CheckResult(over == 0, f"{over} examples are longer than training.max_tokens = {limit}")


@check("Every row has loss on its answer, end of turn included; a classifier's on the class of its label.")
def supervision(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    training = training_of(artifact)
    if isinstance(training, HostedTraining):
        rows = f"{sum(training.rows.values())} rows follow the rules of its files"
        return CheckResult(True, f"trained by {training.service}: {rows}; its loss is not visible here")
    audit = training.audit
    wrong = {name: audit.count(name) for name in COUNTS if audit.count(name) != 0}
    figures = {name: audit.count(name) for name in ("rows", *COUNTS)}
    summary = f"{audit.rows} rows: all have loss on the answer and its end"
    if not METHODS[spec.training.method].kind.generates:
        summary = f"{audit.rows} rows: each has the class of its label"
    return CheckResult(not wrong and audit.rows > 0, f"wrong supervision: {wrong}" if wrong else summary, figures)


@check("All losses are finite.")
def loss_finite(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    training = training_of(artifact)
    if isinstance(training, HostedTraining):
        losses = [loss for entry in training.history for loss in (entry.loss, entry.eval_loss) if loss is not None]
        if not losses:
            return CheckResult(False, f"{training.service} reported no loss", warns=True)
        summary = f"{training.service}: {len(losses)} losses, the last {losses[-1]:.3f}"
        return CheckResult(all(map(math.isfinite, losses)), summary)
    first, best = training.first_eval_loss, training.best_eval_loss
    is_finite = all(map(math.isfinite, (first, best, training.last_train_loss)))
    return CheckResult(is_finite, f"validation loss {first:.3f} → {best:.3f}")


@check("Validation loss is lower than before training.")
def learned(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    training = training_of(artifact)
    if isinstance(training, HostedTraining):
        losses = [loss for _, loss in validation_losses(training.history)]
        fell = len(losses) > 1 and min(losses) < losses[0]
        sentence = (
            f"{training.service} does not report the validation loss before training, only {len(losses)} later ones"
        )
        return CheckResult(fell, sentence, {"losses": losses}, warns=True)
    first, best = training.first_eval_loss, training.best_eval_loss
    message = f"validation loss before {first:.3f}, best {best:.3f}"
    return CheckResult(best < first, message, {"first": first, "best": best})


@check(f"Validation loss has not risen by more than {MUCH_RISE:.0%} above its best.", on_failure="warn")
def not_overfitted(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    """Check the last validation loss. Failing only warns, since the kept checkpoint is the one with the best loss."""
    training = training_of(artifact)
    losses = [loss for _, loss in validation_losses(training.history)]
    if not losses:
        return CheckResult(False, "no validation loss was recorded")
    rise = losses[-1] / training.best_eval_loss - 1 if training.best_eval_loss else math.inf
    kept = f"the best checkpoint (step {training.best_step}) is kept"
    message = f"the last validation loss is {rise:+.1%} from the best; {kept}"
    return CheckResult(rise < MUCH_RISE, message, {"rise": rise})


@check("The saved files contain only the method's own tensors.")
def only_adapter_tensors(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    training, kind = training_of(artifact), METHODS[spec.training.method].kind
    if isinstance(training, HostedTraining) and training.returns == "endpoint":
        return CheckResult(True, f"no weights were returned: the model stays at {training.service}")
    names = training.adapter_tensors
    foreign = [name for name in names if not re.search(kind.tensors, name)]
    problem = f"{len(foreign)} tensors do not belong to method {spec.training.method}: {', '.join(foreign[:3])}"
    return CheckResult(bool(names) and not foreign, problem if foreign else f"{len(names)} {kind.contents}")


@check("QLoRA: the base model is actually stored in 4 bits.", name="four_bit_weights")
def four_bit(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    if METHODS[spec.training.method].holds != "four_bit":
        return CheckResult(True, f"method {spec.training.method} does not quantize the base")
    training = training_of(artifact)
    if isinstance(training, HostedTraining):
        return CheckResult(True, f"trained by {training.service}, which chooses how the base is stored in memory")
    weights = training.weights
    layers = weights.quantized_modules
    quantized_parameters = weights.parameters - weights.by_kind.other / 2  # others take two bytes per parameter
    share = weights.by_kind.quantized / (2 * quantized_parameters) if quantized_parameters > 0 else 1.0
    is_four_bit = layers > 0 and 0 < share < FOUR_BIT_LIMIT
    message = (
        f"{layers} linear layers in four bits take {share:.1%} of their 16-bit size, the whole base "
        f"{weights.ratio:.1%} of its own"
    )
    return CheckResult(is_four_bit, message, {"share": share, **weights.to_json()})


@check("The served model equals the trained one.")
def merge_parity(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    parity = artifact.read(MergedModel).parity
    gate = GATES["merge_parity"](spec, parity)
    message = gate.message
    if parity.weights_off:
        message += f" {len(parity.weights_off)} stored tensors are wrong."
    if parity.new_tokens_chosen:
        message += f" {parity.new_tokens_chosen} answers contain an added token."
    return CheckResult(gate.passed, message, parity.to_json())


@check("Every preference row is kept, refused or left out.", name="preferences_accounted_for")
def preferences_accounted(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    facts = artifact.read(PreferenceFacts)
    came, went = facts.of_files + facts.logged, facts.kept + facts.refused + sum(facts.left_out.values())
    left_out = came - facts.kept - facts.refused
    compared = f" ({facts.compared} of them comparisons of two versions' answers)" if facts.compared else ""
    message = f"{came} rows read or logged{compared}: {facts.kept} kept, {facts.refused} refused, {left_out} left out"
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
