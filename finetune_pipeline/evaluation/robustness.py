"""Measures how much the candidate loses on perturbed test rows, and whether that is too much.

:func:`robustness` measures: paired, with an interval, in the metric that decides. :func:`robustness_verdict` decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from finetune_pipeline.data.perturbations import BLOCKING, KINDS, TITLES, set_name
from finetune_pipeline.evaluation.compare import compare
from finetune_pipeline.evaluation.metrics import metric_title
from finetune_pipeline.evaluation.predictions import of_model
from finetune_pipeline.evaluation.result import Comparison
from finetune_pipeline.evaluation.result_parts import (
    KindLoss,
    PerturbedRows,
    PerturbedScores,
    Robustness,
    RobustnessVerdict,
)
from finetune_pipeline.evaluation.wording import counted, points, points_range
from finetune_pipeline.spec.evaluation import ENOUGH_ROWS, RobustnessSpec
from finetune_pipeline.spec.model import TaskSpec

Row = Mapping[str, Any]
Status = Literal["passed", "failed", "warned", "informs", "unchanged"]
_SEVERITY = ("unchanged", "informs", "passed", "warned", "failed")


def robustness(
    spec: TaskSpec, predictions: Sequence[Row], sources: Mapping[str, str] | None = None
) -> Robustness | None:
    """Measure every perturbation: the candidate's answers beside its plain answers to the same rows.

    None where no perturbed rows were asked for. Confidence is that of the spec, shared among the kinds that can block. A kind
    that could change no row has n = 0 and no further figures.
    """
    if not spec.robustness.rows:
        return None
    confidence = 1 - (1 - spec.gates.confidence) / len(BLOCKING)
    plain = {row["example_id"]: row for row in of_model(predictions, "candidate")}
    kinds = {}
    for kind in KINDS:
        rows = of_model(predictions, set_name("candidate", kind))
        kinds[kind] = PerturbedScores(n=0)
        if rows:
            same = [plain[row["example_id"]] for row in rows]
            kinds[kind] = _figures(compare(same, rows, spec.output, confidence, spec.metric, sources), rows)
    measured = PerturbedRows(
        asked=min(spec.robustness.rows, len(plain)), confidence=confidence, metric=spec.metric, kinds=kinds
    )
    return Robustness(**dict(measured), verdict=robustness_verdict(spec.robustness, measured))


def _figures(paired: Comparison, rows: Sequence[Row]) -> PerturbedScores:
    return PerturbedScores(
        n=paired.n,
        plain=paired.base,
        perturbed=paired.candidate,
        drop=None if paired.gain is None else -paired.gain,
        interval=(-paired.interval[1], -paired.interval[0]) if paired.interval else None,
        lost=paired.b,
        gained=paired.c,
        p=paired.metric_p,
        failed=sum(row["status"] == "error" for row in rows),
    )


def robustness_verdict(settings: RobustnessSpec, measured: PerturbedRows | None) -> RobustnessVerdict:
    """Decide whether a perturbation costs too much.

    A blocking kind costs too much when its drop is larger than robustness.max_drop and its interval lies above zero. It
    fails on ENOUGH_ROWS rows or more; on fewer, or with robustness.action: warn, it warns. The other kinds only inform.
    What was asked for and not measured fails, whatever the action. Where no blocking kind could change a row, it warns.
    """
    unknown = {"worst": None, "largest_drop": None}
    if not settings.rows:
        sentence = "The spec asks for no perturbed rows (robustness.rows: 0)."
        return RobustnessVerdict(status="not_asked", sentence=sentence, **unknown)
    if measured is None:
        sentence = "Perturbed rows were asked for, but not measured."
        return RobustnessVerdict(status="failed", sentence=sentence, **unknown)
    losses = {kind: _loss(settings, kind, measured.kinds.get(kind)) for kind in KINDS}
    kinds = [loss for loss in losses.values() if loss is not None]
    if missing := [TITLES[kind].lower() for kind in BLOCKING if losses[kind] is None]:
        sentence = f"Perturbed rows were asked for, but not measured: {', '.join(missing)}."
        return RobustnessVerdict(status="failed", sentence=sentence, **unknown, kinds=kinds)
    deciding = [loss for loss in kinds if loss.kind in BLOCKING and loss.drop is not None]
    sentence = _changes(kinds, metric_title(measured.metric))
    if not deciding:
        sentence += "No blocking perturbation could change a test row, so robustness is unknown."
        return RobustnessVerdict(status="warned", sentence=sentence, **unknown, kinds=kinds)
    worst = max(deciding, key=lambda loss: (_SEVERITY.index(loss.status), loss.drop or 0.0))
    return RobustnessVerdict(
        status=worst.status if worst.status in ("failed", "warned") else "passed",
        sentence=sentence + _decision(settings, deciding),
        worst=worst.kind,
        largest_drop=worst.drop,
        kinds=kinds,
    )


def _loss(settings: RobustnessSpec, kind: str, scores: PerturbedScores | None) -> KindLoss | None:
    """Judge one kind; None where it was not measured."""
    if scores is None or scores.n is None:
        return None
    drop, interval = scores.drop, scores.interval
    if not scores.n:
        return KindLoss(kind=kind, status="unchanged", n=0, drop=None, interval=None)
    if drop is None:
        return None
    status: Status = "failed" if scores.n >= ENOUGH_ROWS and settings.action == "block" else "warned"
    if kind not in BLOCKING:
        status = "informs"
    elif drop <= settings.max_drop or interval is None or interval[0] <= 0:
        status = "passed"
    return KindLoss(kind=kind, status=status, n=scores.n, drop=drop, interval=interval)


def _changes(kinds: Sequence[KindLoss], metric: str) -> str:
    """What every kind changed; empty where none could change a row."""
    parts = []
    for loss in kinds:
        if loss.drop is None:
            continue
        interval = points_range((-loss.interval[1], -loss.interval[0])) if loss.interval else "no interval"
        informs = ", informs only" if loss.status == "informs" else ""
        rows = counted(loss.n, "row")
        parts.append(f"{TITLES[loss.kind].lower()} {points(-loss.drop)} ({interval}, {rows}{informs})")
    return f"Points of {metric} on the same test rows, perturbed: {'; '.join(parts)}. " if parts else ""


def _decision(settings: RobustnessSpec, deciding: Sequence[KindLoss]) -> str:
    """What follows from the kinds that can block."""
    limit = f"more than {points(settings.max_drop, sign=False)} points (robustness.max_drop)"
    if all(loss.status == "passed" for loss in deciding):
        return f"None that can block costs {limit} and is surely a loss."
    parts = []
    for loss in deciding:
        if loss.status == "passed":
            continue
        consequence = "this holds the candidate back"
        if loss.status == "warned" and settings.action == "warn":
            consequence = "this holds nothing back (robustness.action: warn)"
        elif loss.status == "warned":
            consequence = (
                f"this holds nothing back, since it was measured on {counted(loss.n, 'row')} and blocking takes "
                f"{ENOUGH_ROWS} (robustness.rows)"
            )
        parts.append(f"{TITLES[loss.kind]} cost {limit}, surely a loss: {consequence}.")
    return " ".join(parts)
