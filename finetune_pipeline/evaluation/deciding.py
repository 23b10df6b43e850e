"""Whether a gain is shown: at the level this look at the test has left, in every metric the spec names."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.gains import gain
from finetune_pipeline.evaluation.statistics import level_left, looks_spent
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import AnyOutput

Row = Mapping[str, Any]


def level_of(look: int, confidence: float) -> dict[str, Any]:
    """The level of the look-th candidate on one test set: {look, level, confidence, alpha, spent}.

    `confidence`: of the two-sided interval whose lower bound decides, 1 - `level`; `spent`: bound on the chance that
    this look or an earlier one promotes a useless candidate; `alpha`: what that can never exceed.
    """
    alpha = 1 - confidence
    level = level_left(look, alpha)
    return {
        "look": look,
        "level": level,
        "confidence": 1 - level,
        "alpha": alpha,
        "spent": looks_spent(look, alpha),
    }


def decisive_metrics(spec: TaskSpec) -> list[str]:
    """The metric that decides and those the spec adds, each once."""
    return list(dict.fromkeys([spec.metric, *spec.gates.more_metrics]))


def decide_gain(
    base: Sequence[Row],
    candidate: Sequence[Row],
    output: AnyOutput,
    metrics: Sequence[str],
    *,
    level: float,
    margin: float,
    clusters: Sequence[Hashable] | None = None,
) -> dict[str, Any]:
    """Is the gain of `candidate` over `base` surely above `margin`, in every metric?

    Rows of both sides in the same order of examples. Holm's procedure by intervals: of m metrics still open, each is
    shown whose interval at level / m lies above the margin; then m is smaller, until none is left or none is shown.
    Returns {level, margin, shown, metrics: [{metric, gain, interval, confidence, shown}]}; a metric's interval is the
    last one that was asked. A metric without an interval is not shown.
    """
    found: dict[str, dict[str, Any]] = {}
    waiting = list(metrics)
    while waiting:
        confidence = 1 - level / len(waiting)
        for name in waiting:
            told = gain(name, base, candidate, output, confidence, clusters)
            interval = told["interval"]
            shown = interval is not None and interval[0] > margin
            found[name] = {"metric": name, **told, "confidence": confidence, "shown": shown}
        left = [name for name in waiting if not found[name]["shown"]]
        if len(left) == len(waiting):
            break
        waiting = left
    return {
        "level": level,
        "margin": margin,
        "shown": bool(metrics) and all(one["shown"] for one in found.values()),
        "metrics": [found[name] for name in metrics],
    }
