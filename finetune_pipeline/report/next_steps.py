"""Writes the next steps of a report, each with its reason."""

from collections.abc import Sequence

from finetune_pipeline.evaluation.decisions import Winner
from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.evaluation.result import AtlasGroup, EvaluationResult
from finetune_pipeline.evaluation.winner import TRAINED, winner_of
from finetune_pipeline.evaluation.wording import counted, number, percent
from finetune_pipeline.report.failures import group_title
from finetune_pipeline.report.verdict import MOST_OF_GAIN, closed_by_decoding
from finetune_pipeline.spec.outputs import COVERAGE
from finetune_pipeline.training.history import MUCH_RISE

SHOWN_GROUPS = 3
MIN_MEASUREMENTS, MIN_FALL = 3, 0.01
"""Validation losses after training began, and the last relative fall, from which a loss still falls: two points always fall or
rise."""


def next_steps(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> list[str]:
    """Return the next steps, the most urgent first."""
    steps = _gate_steps(evaluation, gates) + _training_steps(evaluation)
    return steps + _data_steps(evaluation) + _evidence_steps(evaluation)


def _gate_steps(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> list[str]:
    winner = winner_of(evaluation, gates)
    trained, name = winner.kind in TRAINED, evaluation.task.name
    if evaluation.promoted and (not trained or not evaluation.promoted.serves):
        steps = ["Nothing to do: it stays as it was accepted. Change the data or the training for a new candidate."]
    elif winner.kind:
        steps = [f"Serve it: `finetune serve {name}` here, or `finetune export {name} --to DIR` for another server."]
        steps += [] if trained or evaluation.untrained else _instead(evaluation, winner)
    elif evaluation.untrained:
        refused = [gate for finalist in evaluation.finalists for gate in finalist.gates if not gate.passed]
        steps = list(dict.fromkeys(f"{gate.name}: {gate.what_to_do}" for gate in refused if gate.what_to_do))
    else:
        steps = [f"{gate.name}: {gate.what_to_do}" for gate in gates if not gate.passed and gate.what_to_do]
    steps += [f"{gate.name} (a warning): {gate.what_to_do}" for gate in gates if gate.status == "warned"]
    if evaluation.untrained:
        steps.append(f"To train all the same, and compare: set gates.worth_training: warn in {name}/task.yaml.")
    closed = closed_by_decoding(evaluation)
    if winner.kind is None and not evaluation.promoted and closed >= MOST_OF_GAIN:
        steps.append(
            "Consider constraining the base model's answers to the labels instead: that brings "
            f"{percent(min(closed, 1.0))} of the gain without training."
        )
    return steps


def _instead(evaluation: EvaluationResult, winner: Winner) -> list[str]:
    """Return what the fine-tuned model would need to be shipped in place of something simpler."""
    name, power = evaluation.task.name, evaluation.baseline.power
    steps = []
    if power and power.must_reach is not None:
        needed = f"the fine-tuned model must reach about {percent(power.must_reach)} on a test of this size"
        steps.append(f"Or continue training: to be shipped instead, {needed}.")
    if winner.kind == "simple" and evaluation.gate_settings.get("metric") != COVERAGE:  # a tie never promotes
        not_worse = f"set gates.simple: not_worse in {name}/task.yaml"
        steps.append(f"Or, if you want a language model for other reasons, {not_worse}.")
    return steps


def _training_steps(evaluation: EvaluationResult) -> list[str]:
    training = evaluation.training
    if training is None:
        return []
    fit, best = training.overfitting, training.best_step
    losses = [logged.eval_loss for logged in training.history if logged.eval_loss is not None and logged.step]
    if best is not None and best == training.steps and _still_falls(losses):
        fell = f"the validation loss was still falling at the last of {counted(len(losses), 'measurement')}"
        return [f"Train longer: {fell}, from {losses[-2]:.3g} to {losses[-1]:.3g} (training.epochs)."]
    if fit is None or fit.rise < MUCH_RISE:
        return []
    rose = f"the validation loss rose by {percent(fit.rise)} after step {number(fit.best_step)}"
    step = f"Lower training.learning_rate: {rose}, though the training loss did not fall."
    if fit.verdict == "overfitted":
        step = f"Train less or on more rows: {rose}, so the model had begun to memorise its training rows."
    return [f"{step} The best checkpoint was kept."]


def _data_steps(evaluation: EvaluationResult) -> list[str]:
    name, steps = evaluation.task.name, []
    largest = sorted(evaluation.atlas.groups, key=lambda group: -group.count)[:SHOWN_GROUPS]
    if largest:
        kinds = "; ".join(f"{group_title(group)} ({_remedy(group)})" for group in largest)
        collect = any(group.collect for group in evaluation.atlas.groups)
        command = f" `finetune report {name} --ask-data` writes a request for rows." if collect else ""
        mistakes = f"the largest groups of the {counted(evaluation.atlas.wrong, 'mistake')}"
        steps.append(f"Work on {mistakes}: {kinds}. The failure atlas says what to do about each.{command}")
    never_right = evaluation.history.rows.never_right
    if never_right and evaluation.history.versions:
        rows = f"{counted(never_right, 'row')} that no version ever had right"
        steps.append(f"Check the {rows}: they are hard, or labelled wrongly.")
    return steps


def _still_falls(losses: Sequence[float]) -> bool:
    return len(losses) >= MIN_MEASUREMENTS and losses[-1] <= (1 - MIN_FALL) * losses[-2]


def _remedy(group: AtlasGroup) -> str:
    mistakes = counted(group.count, "mistake")
    return f"{mistakes}: collect {counted(group.collect, 'row')} like these" if group.collect else mistakes


def _evidence_steps(evaluation: EvaluationResult) -> list[str]:
    steps, power, people = [], evaluation.baseline.power, evaluation.people
    if power and power.enough is False and power.sentence:
        steps.append(f"Enlarge the test set: {power.sentence}")
    if people is not None and not people.rated and not evaluation.untrained:
        command = f"`finetune review {evaluation.task.name}`"
        steps.append(f"Have people review the answers: {command}. No score replaces that.")
    return steps
