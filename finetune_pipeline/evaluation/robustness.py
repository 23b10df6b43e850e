"""What light perturbations of the same test rows cost the candidate, and whether that is too much.

:func:`robustness` measures: paired, with an interval, in the metric that decides. :func:`robustness_verdict` decides; gate,
check, report and tracking all take its answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from finetune_pipeline.evaluation.compare import compare
from finetune_pipeline.evaluation.perturbations import BLOCKING, KINDS, TITLES, set_name
from finetune_pipeline.evaluation.predictions import of_model
from finetune_pipeline.evaluation.wording import counted, is_interval, is_number, metric_title, points, points_range
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.robustness import ENOUGH_ROWS, RobustnessSpec

Row = Mapping[str, Any]
_SEVERITY = ("unchanged", "informs", "passed", "warned", "failed")
Status = Literal["passed", "failed", "warned", "not_asked"]
KindStatus = Literal["passed", "failed", "warned", "informs", "unchanged"]


@dataclass(frozen=True, slots=True)
class KindLoss:
    """What one perturbation cost.

    Attributes:
        kind: One of perturbations.KINDS.
        status: `failed` or `warned`: a drop above robustness.max_drop that is surely a loss; `informs`: reported only;
            `unchanged`: it could change none of the rows.
        n: Rows it changed and that were asked.
        drop: The metric on the plain rows minus that on the perturbed ones; None without rows.
        interval: Of the drop, at the level shared by the blocking kinds; None where there is none.
    """

    kind: str
    status: KindStatus
    n: int
    drop: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class RobustnessVerdict:
    """Whether the candidate still answers perturbed rows.

    Attributes:
        status: `failed` holds the candidate back; `warned` does not; `not_asked`: robustness.rows is 0.
        worst: The blocking kind that decides, or else the one with the largest drop; None where nothing was measured.
        largest_drop: The drop of `worst`.
        sentence: All kinds with rows and intervals, and what follows from them.
        kinds: What each perturbation cost, in the order of perturbations.KINDS.
    """

    status: Status
    sentence: str
    worst: str | None = None
    largest_drop: float | None = None
    kinds: tuple[KindLoss, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing here holds the candidate back."""
        return self.status != "failed"


def robustness(
    spec: TaskSpec, predictions: Sequence[Row], sources: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """Measure every perturbation: the candidate's answers beside its plain answers to the same rows.

    Args:
        spec: The task.
        predictions: Rows of all models, perturbed ones among them.
        sources: What each example was made from, by id; see compare.compare.

    Returns:
        None where no perturbed rows were asked for. Else {asked (most rows of one kind), confidence (of one interval:
        that of the spec, shared among the kinds that can block), metric, kinds {name: figures}, verdict}. figures: n (rows
        asked), and where there are any plain and perturbed (the metric), drop (plain minus perturbed) with interval, lost
        and gained (right before or after only), p, failed (answers that could not be generated: they are wrong).
        verdict: a RobustnessVerdict as a dictionary.
    """
    if not spec.robustness.rows:
        return None
    confidence = 1 - (1 - spec.gates.confidence) / len(BLOCKING)
    plain = {row["example_id"]: row for row in of_model(predictions, "candidate")}
    kinds: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        rows = of_model(predictions, set_name("candidate", kind))
        kinds[kind] = {"n": 0}
        if rows:
            same = [plain[row["example_id"]] for row in rows]
            kinds[kind] = _figures(compare(same, rows, spec.output, confidence, spec.metric, sources), rows)
    measured = {
        "asked": min(spec.robustness.rows, len(plain)),
        "confidence": confidence,
        "metric": spec.metric,
        "kinds": kinds,
    }
    return {**measured, "verdict": asdict(robustness_verdict(spec.robustness, measured))}


def _figures(paired: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
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


def robustness_verdict(settings: RobustnessSpec, measured: Mapping[str, Any] | None) -> RobustnessVerdict:
    """Decide whether a perturbation costs too much.

    A blocking kind costs too much when its drop is larger than robustness.max_drop and its interval lies above zero. It
    fails on ENOUGH_ROWS rows or more; on fewer, or with robustness.action: warn, it warns. The other kinds only inform.
    What was asked for and not measured fails, whatever the action. Where no blocking kind could change a row, nothing is
    known, which is a warning.

    Args:
        settings: spec.robustness.
        measured: What `robustness` returned, as it is or read back from JSON.
    """
    if not settings.rows:
        return RobustnessVerdict("not_asked", "The spec asks for no perturbed rows (robustness.rows: 0).")
    measured_kinds = measured.get("kinds") if isinstance(measured, Mapping) else None
    if not isinstance(measured_kinds, Mapping):
        return RobustnessVerdict("failed", "Perturbed rows were asked for, but not measured.")
    losses = [_loss(settings, kind, measured_kinds.get(kind)) for kind in KINDS]
    missing = [kind for kind, loss in zip(KINDS, losses, strict=True) if loss is None and kind in BLOCKING]
    kinds = tuple(loss for loss in losses if loss is not None)
    if missing:
        names = ", ".join(TITLES[kind].lower() for kind in missing)
        return RobustnessVerdict("failed", f"Perturbed rows were asked for, but not measured: {names}.", kinds=kinds)
    deciding = [loss for loss in kinds if loss.kind in BLOCKING and loss.drop is not None]
    sentence = _changes(kinds, metric_title((measured or {}).get("metric")))
    if not deciding:
        nothing = "No blocking perturbation could change a test row, so robustness is unknown."
        return RobustnessVerdict("warned", f"{sentence}{nothing}", kinds=kinds)
    worst = max(deciding, key=lambda loss: (_SEVERITY.index(loss.status), loss.drop or 0.0))
    status: Status = "failed" if worst.status == "failed" else "warned" if worst.status == "warned" else "passed"
    return RobustnessVerdict(status, sentence + _decision(settings, deciding), worst.kind, worst.drop, kinds)


def _loss(settings: RobustnessSpec, kind: str, figures: Any) -> KindLoss | None:
    """One kind judged; None where its figures are missing or no numbers."""
    if not isinstance(figures, Mapping) or not is_number(n := figures.get("n")):
        return None
    if not n:
        return KindLoss(kind, "unchanged", 0, None, None)
    drop, interval = figures.get("drop"), figures.get("interval")
    if not is_number(drop):
        return None
    bounds = (float(interval[0]), float(interval[1])) if is_interval(interval) else None
    status: KindStatus = "passed"
    if kind not in BLOCKING:
        status = "informs"
    elif drop > settings.max_drop and bounds is not None and bounds[0] > 0:
        status = "failed" if n >= ENOUGH_ROWS and settings.action == "block" else "warned"
    return KindLoss(kind, status, int(n), float(drop), bounds)


def _changes(kinds: Sequence[KindLoss], metric: str) -> str:
    """What every kind changed; empty where none could change a row."""
    parts = []
    for loss in kinds:
        if loss.drop is None:
            continue
        interval = points_range([-loss.interval[1], -loss.interval[0]]) if loss.interval else "no interval"
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
