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


def margin_of(wanted: str, margin: float) -> float:
    """What a gain must surely exceed: 0 for ``better``, minus the margin for ``not_worse``."""
    return -margin if wanted == "not_worse" else 0.0


def decide_gain(
    rivals: Mapping[str, Sequence[Row]],
    candidate: Sequence[Row],
    output: AnyOutput,
    metrics: Sequence[str],
    *,
    level: float,
    margin: float,
    clusters: Sequence[Hashable] | None = None,
) -> dict[str, Any]:
    """Decide whether the gain of `candidate` over every rival surely exceeds `margin`, in every metric.

    Holm's procedure by intervals over all pairs of a rival and a metric: of m pairs still open, each is shown whose
    interval at level / m lies above the margin; then m is smaller, until none is left or none is shown.

    Args:
        rivals: Rows of each rival by name, in the order of the candidate's rows.
        candidate: Rows of the candidate.
        output: The kind of answer the spec declares.
        metrics: Metrics the gain must be shown in.
        level: Two-sided significance level of the whole decision.
        margin: The gain must surely exceed this; negative where the candidate may be a little worse.
        clusters: The source of every row, where rows share one.

    Returns:
        {level, margin, shown, gains: [{rival, metric, gain, interval, confidence, shown}]}. An interval is the last one
        that was computed; a metric without an interval is not shown, and nothing is shown without a rival.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    waiting = [(rival, metric) for rival in rivals for metric in metrics]
    while waiting:
        confidence = 1 - level / len(waiting)
        for rival, metric in waiting:
            measured = gain(metric, rivals[rival], candidate, output, confidence, clusters)
            interval = measured["interval"]
            shown = interval is not None and interval[0] > margin
            found[rival, metric] = {
                "rival": rival,
                "metric": metric,
                **measured,
                "confidence": confidence,
                "shown": shown,
            }
        left = [pair for pair in waiting if not found[pair]["shown"]]
        if len(left) == len(waiting):
            break
        waiting = left
    gains = [found[rival, metric] for rival in rivals for metric in metrics]
    return {"level": level, "margin": margin, "shown": bool(gains) and all(g["shown"] for g in gains), "gains": gains}
