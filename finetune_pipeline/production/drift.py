"""Has production moved away from what the champion was trained on? A watch over windows, and its sentence."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.engine.store import write_json
from finetune_pipeline.production.signals import QUALITY, Reference, signals_of
from finetune_pipeline.production.watch import moment, version_of, watch
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
    learned: Reference | None = None,
    others: Collection[str] = (),
) -> dict[str, Any]:
    """Watch production rows (see :mod:`finetune_pipeline.production.watch`) against what the model was trained on.

    after: seconds since 1970; rows until then were there when the training data was taken and are left out.
    told_of_reference: what the rows are held against, for people. learned: production as the model learned it (see
    :func:`as_learned`). A change of inputs or outputs that does not go beyond it is no news: it is told as known, and asks
    for nothing. others: see :func:`finetune_pipeline.production.watch.watch`.

    Returns facts {rows, watched, by_others, windows, waiting_rows, judged, reference, signals {name: the newest judgement, with
    meaning, side and since}, drifted [names], known [names], past [names], since, sentence, history [windows]}; writes
    drift.json.
    """
    watched = [r for r in rows if after is None or moment(r) > after]
    history = list(watch(spec, reference, watched, others=others))
    size = spec.drift.window_rows
    facts: dict[str, Any] = {
        "rows": len(rows),
        "watched": len(watched),
        "by_others": sum(version_of(str(r["model_version"])) in others for r in watched) if others else 0,
        "windows": len(history),
        "waiting_rows": len(watched) - size * len(history),
        "judged": bool(history),
        "reference": told_of_reference,
        "signals": {},
        "drifted": [],
        "known": [],
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
    if learned is not None and facts["drifted"]:
        newest = watch(spec, learned, watched, max(1, facts["windows"] - RECENT + 1), others)
        news = _beyond(facts, newest)
        facts["known"] = [name for name in facts["drifted"] if name not in news]
        facts["drifted"] = news
    if facts["drifted"]:
        facts["since"] = min(facts["signals"][name]["since"] for name in facts["drifted"])
    facts["sentence"] = _sentence(spec, facts)
    facts["history"] = history
    write_json(out / "drift.json", facts)
    return facts


def _beyond(facts: Mapping[str, Any], newest: Iterable[Mapping[str, Any]]) -> list[str]:
    """The drifted signals that differ from production as the model learned it, too. Quality is held against earlier windows
    of the same watch anyhow. newest: windows held against what was learned."""
    quality = [name for name in facts["drifted"] if facts["signals"][name]["side"] == QUALITY]
    alarms = {name for w in newest for name, s in w["signals"].items() if s["alarm"]}
    return [name for name in facts["drifted"] if name in quality or name in alarms]


def as_learned(
    spec: TaskSpec, rows: Sequence[Mapping[str, Any]], until: float, used: Collection[str], fewest: int
) -> Reference | None:
    """Production as a model learned it: the newest window of rows until its data was taken (seconds since 1970), or as many
    more as hold `fewest` rows that are in its data. None where there are not so many.

    rows: in any order; used: ids of the rows in its data.
    """
    found: list[Mapping[str, Any]] = []
    taught = 0
    for row in sorted((r for r in rows if moment(r) <= until), key=lambda r: (moment(r), str(r["id"])), reverse=True):
        if len(found) >= spec.drift.window_rows and taught >= fewest:
            break
        found.append(row)
        taught += row["id"] in used
    if len(found) < spec.drift.window_rows or taught < fewest:
        return None
    return Reference([str(r["input"]) for r in found], [str(r["output"]).strip() for r in found])


def _sentence(spec: TaskSpec, facts: Mapping[str, Any]) -> str:
    if not facts["judged"]:
        return (
            f"{facts['watched']} production rows since the training data was taken: too few to judge drift "
            f"(a window has {spec.drift.window_rows})."
        )
    seen = f"{facts['windows']} windows of {spec.drift.window_rows} production rows"
    known = ", ".join(facts["known"])
    if not facts["drifted"]:
        past = f"; {', '.join(facts['past'])} had drifted in earlier windows" if facts["past"] else ""
        if known:
            past = f"; in {known} they are unlike the training rows as a whole, but like the newest that were learned{past}"
        return f"No new drift found in {seen}{past}." if known else f"No drift found in {seen}{past}."
    told = ", ".join(f"{name} ({100 * facts['signals'][name]['size']:.0f} points)" for name in facts["drifted"])
    return f"Production has drifted in {told}, first seen in the window that ended {facts['since'][:10]} ({seen})."
