"""Whether another round of training is worth starting: expected gain against cost, as a sentence with its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_pipeline.engine.store import write_json
from finetune_pipeline.production.learning_curve import Curve
from finetune_pipeline.spec.model import TaskSpec

HOUR = 3600


@dataclass(frozen=True)
class Evidence:
    """usable: new rows with a known answer; wrong_now: the champion's share of wrong test answers, None where unknown;
    curve: None where it cannot be measured; hours: what the last training took."""

    usable: int
    wrong_now: float | None = None
    curve: Curve | None = None
    hours: float | None = None


def decide_retraining(spec: TaskSpec, drift: Mapping[str, Any], evidence: Evidence, out: Path) -> dict[str, Any]:
    """Train again, or wait for how many more rows.

    After drift `retraining.rows_after_drift` new rows are enough: the curve of the old data says nothing about the new
    questions. Otherwise the learning curve says what the new rows are expected to bring; under `retraining.min_gain`, or
    where the gain is not worth its hours, it is better to wait. Where no curve can be measured (answers that are no
    labels, few rows), `logs.min_new_rows` decides.

    Returns facts {retrain, usable_rows, wait_for_rows, gain, hours, curve, reasons, sentence}; writes decision.json.
    """
    drifted, usable = list(drift["drifted"]), evidence.usable
    reasons = [f"{usable} new rows with a known answer since the champion's data was taken", str(drift["sentence"])]
    gain = wait = None
    known = evidence.curve is not None and evidence.wrong_now is not None
    if known:
        gain = evidence.curve.gain(usable, evidence.wrong_now)  # type: ignore[union-attr,arg-type]
        reasons.append(_told_gain(evidence, gain))
    hours = evidence.hours * _growth(evidence) if evidence.hours is not None else None
    if hours is not None:
        reasons.append(f"a training takes about {hours:.1g} hours, as the last one did for its rows")
    if drifted and usable >= spec.retraining.rows_after_drift:
        retrain, sentence = True, f"Train again: {usable} new rows, and drift in {', '.join(drifted)}."
    elif drifted:
        retrain, wait = False, spec.retraining.rows_after_drift - usable
        sentence = (
            f"Production drifted in {', '.join(drifted)}, but {usable} new rows with a known answer are too few to learn it: "
            f"wait for {wait} more, or label some (finetune review {spec.name})."
        )
    elif gain is not None:
        retrain, wait, sentence = _by_curve(spec, evidence, gain, hours)
    else:
        needed = spec.logs.min_new_rows
        retrain, wait = usable >= needed, max(0, needed - usable) or None
        sentence = f"Train again: {usable} new rows." if retrain else f"Wait for {wait} more corrected rows."
    facts = {
        "retrain": retrain,
        "usable_rows": usable,
        "wait_for_rows": wait,
        "gain": None if gain is None else [round(g, 5) for g in gain],
        "hours": None if hours is None else round(hours, 4),
        "curve": evidence.curve.points if evidence.curve is not None else None,
        "reasons": reasons,
        "sentence": sentence,
    }
    write_json(out / "decision.json", facts)
    return facts


def _growth(evidence: Evidence) -> float:
    return 1 + evidence.usable / evidence.curve.rows if evidence.curve is not None else 1.0


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _told_gain(evidence: Evidence, gain: tuple[float, float, float]) -> str:
    return (
        f"they are expected to bring {_points(gain[1])} points of right answers ({_points(gain[0])} to {_points(gain[2])}): "
        f"the share of the champion's {_points(evidence.wrong_now or 0.0)}% mistakes that as many rows took from the linear "
        "baseline, carried on by a power law"
    )


def _by_curve(
    spec: TaskSpec, evidence: Evidence, gain: tuple[float, float, float], hours: float | None
) -> tuple[bool, int | None, str]:
    assert evidence.curve is not None
    assert evidence.wrong_now is not None
    rate, asked = spec.retraining.hours_a_point, spec.retraining.min_gain
    if rate is not None and hours is not None:
        asked = max(asked, hours / rate / 100)
    told = f"{evidence.usable} new rows are expected to bring {_points(gain[1])} points"
    if gain[1] >= asked and evidence.usable:
        return True, None, f"Train again: {told} ({_points(gain[0])} to {_points(gain[2])})."
    needed = evidence.curve.rows_for(asked, evidence.wrong_now)
    if needed is None:
        return (
            False,
            None,
            f"Do not train again: {told}, and no number of rows like these promises the {_points(asked)} points asked for. "
            "Other rows, a larger base or another method may.",
        )
    wait = max(1, needed - evidence.usable)
    return False, wait, f"Wait for {wait} more rows: {told}, and {_points(asked)} points are asked for."
