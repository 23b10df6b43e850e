"""Has production moved away from what the champion was trained on? A watch over windows, and its sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.artifacts import write_json
from finetune_pipeline.production.signals import Reference, signals_of
from finetune_pipeline.production.watch import moment, watch
from finetune_pipeline.spec.model import TaskSpec

RECENT = 3
"""Alarms of so many newest windows are the present drift; older ones are told as past."""


def drift_report(
    spec: TaskSpec,
    reference: Reference,
    rows: Sequence[Mapping[str, Any]],
    out: Path,
    after: float | None = None,
    told_of_reference: str = "the training rows",
) -> dict[str, Any]:
    """Watch production rows (see :mod:`finetune_pipeline.production.watch`) against what the model was trained on.

    after: seconds since 1970; rows until then were there when the training data was taken and are left out.
    told_of_reference: what the rows are held against, for people.

    Returns facts {rows, watched, windows, waiting_rows, judged, reference, signals {name: the newest judgement, with
    meaning, side and since}, drifted [names], past [names], since, sentence, history [windows]}; writes drift.json.
    """
    watched = [r for r in rows if after is None or moment(r) > after]
    history = list(watch(spec, reference, watched))
    size = spec.drift.window_rows
    facts: dict[str, Any] = {
        "rows": len(rows),
        "watched": len(watched),
        "windows": len(history),
        "waiting_rows": len(watched) - size * len(history),
        "judged": bool(history),
        "reference": told_of_reference,
        "signals": {},
        "drifted": [],
        "past": [],
        "since": None,
    }
    for signal in signals_of(spec):
        seen = [w for w in history if signal.name in w["signals"]]
        if not seen:
            continue
        alarms = [w for w in seen if w["signals"][signal.name]["alarm"]]
        facts["signals"][signal.name] = {
            **seen[-1]["signals"][signal.name],
            "side": signal.side,
            "meaning": signal.meaning,
            "since": alarms[0]["last"] if alarms else None,
        }
        if any(w in seen[-RECENT:] for w in alarms):
            facts["drifted"].append(signal.name)
        elif alarms:
            facts["past"].append(signal.name)
    if facts["drifted"]:
        facts["since"] = min(facts["signals"][name]["since"] for name in facts["drifted"])
    facts["sentence"] = _sentence(spec, facts)
    facts["history"] = history
    write_json(out / "drift.json", facts)
    return facts


def _sentence(spec: TaskSpec, facts: Mapping[str, Any]) -> str:
    if not facts["judged"]:
        return (
            f"{facts['watched']} production rows since the training data was taken: too few to judge drift "
            f"(a window has {spec.drift.window_rows})."
        )
    seen = f"{facts['windows']} windows of {spec.drift.window_rows} production rows"
    if not facts["drifted"]:
        past = f"; {', '.join(facts['past'])} had drifted in earlier windows" if facts["past"] else ""
        return f"No drift found in {seen}{past}."
    told = ", ".join(f"{name} ({100 * facts['signals'][name]['size']:.0f} points)" for name in facts["drifted"])
    return f"Production has drifted in {told}, first seen in the window that ended {facts['since'][:10]} ({seen})."
