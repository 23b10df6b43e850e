"""Measures the candidate's loss on perturbed test rows, and decides whether it is too large.

:func:`robustness` measures: paired, with an interval, in the metric that decides. :func:`robustness_verdict` decides.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from finetune_pipeline.data.perturbations import BLOCKING, KINDS, TITLES, set_name
from finetune_pipeline.evaluation.compare import SourceOf, compare
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.metrics import metric_title
from finetune_pipeline.evaluation.predictions import answered, of_model
from finetune_pipeline.evaluation.result_parts import PerturbedRows, PerturbedScores, Robustness, RobustnessVerdict
from finetune_pipeline.evaluation.wording import counted, points, points_range
from finetune_pipeline.spec.evaluation import ENOUGH_ROWS, RobustnessSpec
from finetune_pipeline.spec.model import TaskSpec

Status = Literal["passed", "warned", "failed"]
"""The least severe first."""
_SEVERITY = get_args(Status)


def robustness(spec: TaskSpec, predictions: Sequence[Row], sources: SourceOf = None) -> Robustness | None:
    """Measure every perturbation: compare the candidate's answers to perturbed rows with those to the plain rows. Failed answers
    are counted and no evidence.

    Returns None if the spec asks for no perturbed rows. The spec's confidence is shared among the kinds that can block. A kind
    that could change no row has n = 0 and no further figures.
    """
    if not spec.robustness.rows:
        return None
    confidence = 1 - (1 - spec.gates.confidence) / len(BLOCKING)
    plain = {row["example_id"]: row for row in of_model(predictions, "candidate")}
    kinds = {}
    for kind in KINDS:
        asked_rows = of_model(predictions, set_name("candidate", kind))
        rows = answered(asked_rows)
        failed = len(asked_rows) - len(rows)
        kinds[kind] = PerturbedScores(n=0, failed=failed)
        if rows:
            plain_rows = [plain[row["example_id"]] for row in rows]
            comparison = compare(plain_rows, rows, spec.output, confidence, spec.metric, sources)
            kinds[kind] = PerturbedScores(
                n=comparison.n,
                plain=comparison.base,
                perturbed=comparison.candidate,
                drop=None if comparison.gain is None else -comparison.gain,
                interval=(-comparison.interval[1], -comparison.interval[0]) if comparison.interval else None,
                lost=comparison.b,
                gained=comparison.c,
                p=comparison.metric_p,
                failed=failed,
            )
    requested_rows = min(spec.robustness.rows, len(plain))
    measured = PerturbedRows(asked=requested_rows, confidence=confidence, metric=spec.metric, kinds=kinds)
    return Robustness(**dict(measured), verdict=robustness_verdict(spec.robustness, measured))


def robustness_verdict(settings: RobustnessSpec, measured: PerturbedRows | None) -> RobustnessVerdict:
    """Decide whether a perturbation costs too much.

    A blocking kind costs too much when its drop is larger than robustness.max_drop and its interval lies above zero. It
    fails on ENOUGH_ROWS rows or more; on fewer, or with robustness.action: warn, it warns. The other kinds only inform.
    Requested rows that were not measured fail, whatever the action. If no blocking kind could change a row, it warns.
    """
    if not settings.rows:
        sentence = "The spec asks for no perturbed rows (robustness.rows: 0)."
        return RobustnessVerdict(status="not_asked", sentence=sentence)
    kinds = measured.kinds if measured else {}
    complete = {
        kind: scores
        for kind, scores in kinds.items()
        if (scores.n and scores.drop is not None) or (scores.n == 0 and not scores.failed)
    }
    missing = [TITLES[kind].lower() for kind in BLOCKING if kind not in complete]
    if measured is None or missing:
        titles = f": {', '.join(missing)}" if measured else ""
        return RobustnessVerdict(status="failed", sentence=f"Perturbed rows were requested but not measured{titles}.")
    losses = {kind: scores for kind, scores in complete.items() if scores.n}
    sentence = _change_sentence(losses, metric_title(measured.metric))
    statuses = {kind: _status(settings, scores) for kind, scores in losses.items() if kind in BLOCKING}
    if not statuses:
        sentence += "No blocking perturbation could change a test row, so robustness is unknown."
        return RobustnessVerdict(status="warned", sentence=sentence)
    worst = max(statuses, key=lambda kind: (_SEVERITY.index(statuses[kind]), losses[kind].drop or 0.0))
    return RobustnessVerdict(
        status=statuses[worst],
        sentence=sentence + _blocking_sentence(settings, statuses, losses),
        worst=worst,
        largest_drop=losses[worst].drop,
    )


def _status(settings: RobustnessSpec, scores: PerturbedScores) -> Status:
    if (scores.drop or 0.0) <= settings.max_drop or scores.interval is None or scores.interval[0] <= 0:
        return "passed"
    asked = (scores.n or 0) + (scores.failed or 0)
    return "failed" if asked >= ENOUGH_ROWS and settings.action == "block" else "warned"


def _change_sentence(losses: Mapping[str, PerturbedScores], metric: str) -> str:
    """A sentence on the change by every kind; empty if none could change a row."""
    parts = []
    for kind, scores in losses.items():
        interval = points_range((-scores.interval[1], -scores.interval[0])) if scores.interval else "no interval"
        note = f", {scores.failed} more without an answer" if scores.failed else ""
        note += "" if kind in BLOCKING else ", informs only"
        change = points(-(scores.drop or 0.0))
        parts.append(f"{TITLES[kind].lower()} {change} ({interval}, {counted(scores.n or 0, 'row')}{note})")
    return f"Points of {metric} on the same test rows, perturbed: {'; '.join(parts)}. " if parts else ""


def _blocking_sentence(
    settings: RobustnessSpec, statuses: Mapping[str, Status], losses: Mapping[str, PerturbedScores]
) -> str:
    """A sentence on each blocking kind that costs too much, or one that none does."""
    limit = f"more than {points(settings.max_drop, sign=False)} points (robustness.max_drop)"
    sentences = []
    for kind, status in statuses.items():
        if status == "passed":
            continue
        consequence = "this blocks the candidate"
        if status == "warned" and settings.action == "warn":
            consequence = "this does not block (robustness.action: warn)"
        elif status == "warned":
            measured = f"it was measured on {counted(losses[kind].n or 0, 'row')} and blocking takes {ENOUGH_ROWS}"
            consequence = f"this does not block, because {measured} (robustness.rows)"
        sentences.append(f"{TITLES[kind]} cost {limit}, surely a loss: {consequence}.")
    return " ".join(sentences) or f"None that can block costs {limit} and is surely a loss."
