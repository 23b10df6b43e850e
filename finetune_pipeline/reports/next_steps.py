"""What to do next, drawn from the whole evaluation: the most pressing first, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.data_request import group_title
from finetune_pipeline.evaluation.gates import GateResult, verdict
from finetune_pipeline.evaluation.wording import counted, is_number, number, percent, points

MOST_FORM = 0.5
SHOWN_GROUPS = 3


def next_steps(evaluation: Mapping[str, Any], gates: Sequence[GateResult]) -> list[str]:
    """Sentences, one a step, in the order in which they pay."""
    return [
        *_of_the_gates(gates),
        *_cheaper_ways(evaluation),
        *_of_training(evaluation),
        *_of_data(evaluation),
        *_of_evidence(evaluation),
    ]


def _of_the_gates(gates: Sequence[GateResult]) -> list[str]:
    if verdict(gates) == "passed":
        first = ["Serve it: every gate passed, so the alias champion moves to this version when it is registered."]
    else:
        first = [f"{gate.name}: {gate.what_to_do}" for gate in gates if not gate.passed and gate.what_to_do]
    return first + [f"{gate.name} (a warning): {gate.what_to_do}" for gate in gates if gate.warns]


def _cheaper_ways(evaluation: Mapping[str, Any]) -> list[str]:
    told = []
    linear, gap = evaluation["comparisons"].get("linear"), evaluation["format_gap"]
    if linear and linear["interval"][0] <= 0:
        told.append(
            "Consider TF-IDF with logistic regression instead: the fine-tuned model is not shown to be better "
            f"({points(linear['gain'])} points), and it trains in seconds and serves for nothing."
        )
    closed = gap["closed_by_decoding"] if gap else None
    if is_number(closed) and closed >= MOST_FORM:
        told.append(
            "Consider the base model with constrained decoding instead: restricting its answers to the labels brings "
            f"{percent(min(closed, 1.0))} of the gain without training."
        )
    return told


def _of_training(evaluation: Mapping[str, Any]) -> list[str]:
    training = evaluation["training"]
    fit, best, steps = training.get("overfitting") or {}, training.get("best_step"), training.get("steps")
    losses = [row["eval_loss"] for row in training.get("history") or [] if is_number(row.get("eval_loss"))]
    if is_number(best) and best == steps and len(losses) > 1 and losses[-1] < losses[-2]:
        return ["Train longer: the validation loss was still falling at the last step (training.epochs)."]
    if fit.get("verdict") not in (None, "none"):
        return [
            f"Train less or on more rows: the validation loss rose again after step {number(fit.get('best_step'))}, so the "
            "model had begun to learn its training rows by heart. The best checkpoint was kept."
        ]
    return []


def _of_data(evaluation: Mapping[str, Any]) -> list[str]:
    name, told = evaluation["task"]["name"], []
    wanted = sorted((g for g in evaluation["atlas"]["groups"] if g["collect"]), key=lambda g: -g["count"])
    if wanted:
        kinds = "; ".join(f"{group_title(g)} ({number(g['collect'])} rows)" for g in wanted[:SHOWN_GROUPS])
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
