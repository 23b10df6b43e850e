"""What light perturbations of the same test rows cost: paired, with an interval, in the metric that decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.compare import compare
from finetune_pipeline.evaluation.perturbations import KINDS, TITLES, set_name
from finetune_pipeline.evaluation.predictions import of_model
from finetune_pipeline.evaluation.wording import counted, is_interval, is_number, metric_title, points, points_range
from finetune_pipeline.spec.model import TaskSpec

Row = Mapping[str, Any]
MODELS = ("candidate", "base")


def robustness(
    spec: TaskSpec, predictions: Sequence[Row], sources: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """Every perturbation's answers beside the plain answers of the same model to the same rows; None where none was asked.

    predictions: rows of all models, perturbed ones among them. Returns {asked (rows drawn), confidence (of one interval:
    that of the spec, shared among the perturbations), kinds {name: {model: told}}}; told: n (rows the perturbation could
    change), and where there are any plain and perturbed (the metric), drop (plain minus perturbed) with interval, lost and
    gained (right before or after only), p, failed (answers that could not be generated: they are wrong).
    """
    if not spec.robustness.rows:
        return None
    confidence = 1 - (1 - spec.gates.confidence) / len(KINDS)
    plain = {model: {row["example_id"]: row for row in of_model(predictions, model)} for model in MODELS}
    kinds: dict[str, Any] = {}
    for kind in KINDS:
        kinds[kind] = {}
        for model in MODELS:
            rows = of_model(predictions, set_name(model, kind))
            if rows:
                before = [plain[model][row["example_id"]] for row in rows]
                kinds[kind][model] = _told(compare(before, rows, spec.output, confidence, spec.metric, sources), rows)
            elif model == "candidate":
                kinds[kind][model] = {"n": 0}
    drawn = min(spec.robustness.rows, len(plain["candidate"]))
    return {"asked": drawn, "confidence": confidence, "metric": spec.metric, "kinds": kinds}


def _told(paired: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    interval = paired["interval"]
    return {
        "n": paired["n"],
        "plain": paired["base"]["primary"]["value"],
        "perturbed": paired["candidate"]["primary"]["value"],
        "drop": -paired["gain"],
        "interval": [-interval[1], -interval[0]] if interval else None,
        "lost": paired["b"],
        "gained": paired["c"],
        "p": paired["metric_p"],
        "failed": sum(row["status"] == "error" for row in rows),
    }


def robust(spec: TaskSpec, told: Mapping[str, Any] | None) -> tuple[bool, float | None, str]:
    """(no perturbation costs too much, the largest drop, a sentence).

    Too much: the drop is larger than robustness.max_drop, and surely a drop (its interval lies above zero). What was asked
    for and not measured does not pass.
    """
    settings = spec.robustness
    if not settings.rows:
        return True, None, "The spec asks for no perturbed rows (robustness.rows: 0)."
    if not isinstance(told, Mapping) or set(told.get("kinds") or ()) != set(KINDS):
        return False, None, "Perturbed rows were asked for, but not measured."
    found = {kind: told["kinds"][kind].get("candidate") or {} for kind in KINDS}
    there = {kind: one for kind, one in found.items() if one.get("n")}
    if not all(is_number(one.get("n")) for one in found.values()):
        return False, None, "Perturbed rows were asked for, but not counted."
    if not there:
        return True, None, "No perturbation could change any of the rows drawn."
    if not all(is_number(one.get("drop")) for one in there.values()):
        return False, None, "What a perturbation costs could not be measured."
    much = [
        kind
        for kind, one in there.items()
        if one["drop"] > settings.max_drop and is_interval(one["interval"]) and one["interval"][0] > 0
    ]
    parts = [
        f"{TITLES[kind].lower()} {points(-one['drop'])}"
        + (
            f" ({points_range([-one['interval'][1], -one['interval'][0]])}"
            if is_interval(one["interval"])
            else " (no interval"
        )
        + f", {counted(int(one['n']), 'row')})"
        for kind, one in there.items()
    ]
    sentence = (
        f"Points of {metric_title(told.get('metric'))} on test rows asked again: {'; '.join(parts)}. "
        f"A loss of more than {points(settings.max_drop, sign=False)} points that is surely one is too much."
    )
    return not much, max(one["drop"] for one in there.values()), sentence
