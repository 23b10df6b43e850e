"""What to do next, drawn from the whole evaluation: the most pressing first, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.data_request import group_title
from finetune_pipeline.evaluation.gates import GateResult, verdict
from finetune_pipeline.evaluation.gates_on_gains import tied_with
from finetune_pipeline.evaluation.predictions import SIMPLE
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.wording import counted, inside, is_number, number, percent
from finetune_pipeline.training.history import MUCH_RISE

MOST_FORM = 0.5
SHOWN_GROUPS = 3


def next_steps(evaluation: Mapping[str, Any], gates: Sequence[GateResult]) -> list[str]:
    """Sentences, one a step, in the order in which they pay."""
    return [
        *_of_the_gates(evaluation, gates),
        *_cheaper_ways(evaluation, gates),
        *_of_training(evaluation),
        *_of_data(evaluation),
        *_of_evidence(evaluation),
    ]


def _of_the_gates(evaluation: Mapping[str, Any], gates: Sequence[GateResult]) -> list[str]:
    decision = verdict(gates)
    if decision == "promote":
        first = ["Serve it: no gate said no, so the alias champion moves to this version when it is registered."]
    elif decision == "use_simple":
        first = _use_simple(evaluation)
    else:
        first = [f"{gate.name}: {gate.what_to_do}" for gate in gates if not gate.passed and gate.what_to_do]
    return first + [f"{gate.name} (a warning): {gate.what_to_do}" for gate in gates if gate.status == "warned"]


def _use_simple(evaluation: Mapping[str, Any]) -> list[str]:
    """The simple model that scores best, and what would have to happen for the language model to pass."""
    name, tied = evaluation["task"]["name"], tied_with(evaluation)
    scores = {model.title: evaluation["scores"].get(f"{SIMPLE}{key}") for key, model in SIMPLE_MODELS.items()}
    best = max(tied, key=lambda title: scores[title]["primary"]["value"] or 0.0) if tied else "the simple model"
    steps = [
        f"Use {inside(best)}: `finetune export {name} --simple --to DIR` writes it, with a card and an example. It is made in "
        "seconds and serves for nothing."
    ]
    power = (evaluation.get("baseline") or {}).get("power") or {}
    if is_number(power.get("before")) and is_number(power.get("detectable_gain")):
        needed = percent(min(1.0, power["before"] + power["detectable_gain"]))
        steps.append(f"Or train on: to be promoted, the model has to reach about {needed} on a test of this size.")
    steps.append(
        f"Or, where you want one model for other reasons, write gates.simple: not_worse into {name}/task.yaml."
    )
    return steps


def _cheaper_ways(evaluation: Mapping[str, Any], gates: Sequence[GateResult]) -> list[str]:
    gap = evaluation["format_gap"]
    closed = gap["closed_by_decoding"] if gap else None
    if verdict(gates) == "promote" or not is_number(closed) or closed < MOST_FORM:
        return []
    return [
        "Consider restricting the base model's answers to the labels instead: that brings "
        f"{percent(min(closed, 1.0))} of the gain without training."
    ]


def _of_training(evaluation: Mapping[str, Any]) -> list[str]:
    training = evaluation["training"]
    fit, best, steps = training.get("overfitting") or {}, training.get("best_step"), training.get("steps")
    losses = [row["eval_loss"] for row in training.get("history") or [] if is_number(row.get("eval_loss"))]
    if is_number(best) and best == steps and len(losses) > 1 and losses[-1] < losses[-2]:
        return ["Train longer: the validation loss was still falling at the last step (training.epochs)."]
    if not is_number(fit.get("rise")) or fit["rise"] < MUCH_RISE:
        return []
    rose = f"the validation loss rose by {percent(fit['rise'])} after step {number(fit.get('best_step'))}"
    if fit["verdict"] == "overfitted":
        return [
            f"Train less or on more rows: {rose}, so the model had begun to learn its training rows by heart. The best "
            "checkpoint was kept."
        ]
    return [
        f"Lower training.learning_rate: {rose}, though the training loss did not fall. The best checkpoint was kept."
    ]


def _of_data(evaluation: Mapping[str, Any]) -> list[str]:
    name, told = evaluation["task"]["name"], []
    wanted = sorted((g for g in evaluation["atlas"]["groups"] if g["collect"]), key=lambda g: -g["count"])
    if wanted:
        kinds = "; ".join(
            f"{group_title(g)} ({counted(g['count'], 'mistake')}: collect {counted(g['collect'], 'row')} like these)"
            for g in wanted[:SHOWN_GROUPS]
        )
        told.append(
            f"Collect rows for the largest groups of mistakes: {kinds}. `finetune ask-data {name}` writes the request."
        )
    never = ((evaluation.get("history") or {}).get("rows") or {}).get("never_right")
    if never and (evaluation.get("history") or {}).get("versions"):
        told.append(
            f"Look at the {counted(never, 'row')} that no version ever had right: they are hard, or labelled wrongly."
        )
    return told


def _of_evidence(evaluation: Mapping[str, Any]) -> list[str]:
    name, told = evaluation["task"]["name"], []
    power = (evaluation.get("baseline") or {}).get("power") or {}
    if power.get("enough") is False and power.get("sentence"):
        told.append(f"Enlarge the test set: {power['sentence']}")
    people = evaluation.get("people")
    if people is not None and not people["rated"]:
        told.append(f"Have people look at the answers: `finetune review {name}`. No score replaces that.")
    return told
