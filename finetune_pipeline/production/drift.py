"""Drift detection: compares production with the champion's training data, window by window."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.engine.files import write_json
from finetune_pipeline.evaluation.production_rows import moment as moment_of
from finetune_pipeline.production.signals import INPUT, QUALITY, Reference, Window, signals_of
from finetune_pipeline.spec.model import TaskSpec

RECENT = 3
"""Number of recent windows whose alarms count as current drift; older alarms count as past."""


def drift_report(
    spec: TaskSpec,
    reference: Reference,
    rows: Sequence[Mapping[str, Any]],
    out: Path,
    after: float | None = None,
    reference_name: str = "the training rows",
    learned: Reference | None = None,
    other_versions: Collection[str] = (),
) -> dict[str, Any]:
    """Compare production rows with the model's training data, window by window (see :func:`watch`), and write drift.json.

    Args:
        after: Seconds since 1970; rows up to then predate the collection of the training data and are left out.
        learned: Production at the time of training (see :func:`reference_at_training`). A change of inputs or outputs within
            it is reported as known and needs no action.
    """
    watched = [r for r in rows if after is None or moment(r) > after]
    history = list(watch(spec, reference, watched, other_versions=other_versions))
    signals, recent, past = dict[str, dict[str, Any]](), list[str](), list[str]()
    for signal in signals_of(spec):
        measurements = [(w["last"], w["signals"][signal.name]) for w in history if signal.name in w["signals"]]
        if not measurements:
            continue
        since = next((last for last, measured in measurements if measured["alarm"]), None)
        signals[signal.name] = {**measurements[-1][1], "side": signal.side, "meaning": signal.meaning, "since": since}
        if any(measured["alarm"] for _, measured in measurements[-RECENT:]):
            recent.append(signal.name)
        elif since:
            past.append(signal.name)
    new_signals = set(recent)
    if learned is not None and recent:
        recent_windows = watch(spec, learned, watched, max(1, len(history) - RECENT + 1), other_versions)
        # quality is always compared with earlier windows of the same watch
        new_signals = {name for name in recent if signals[name]["side"] == QUALITY}
        new_signals |= {name for w in recent_windows for name, s in w["signals"].items() if s["alarm"]}
    drifted = [name for name in recent if name in new_signals]
    facts: dict[str, Any] = {
        "rows": len(rows),
        "newest": max((r["timestamp"] for r in rows), key=moment_of, default=None),
        "watched": len(watched),
        "by_others": sum(version_of(str(r["model_version"])) in other_versions for r in watched)
        if other_versions
        else 0,
        "windows": len(history),
        "waiting_rows": len(watched) - spec.drift.window_rows * len(history),
        "judged": bool(history),
        "reference": reference_name,
        "signals": signals,
        "drifted": drifted,
        "known": [name for name in recent if name not in new_signals],
        "past": past,
        "since": min((signals[name]["since"] for name in drifted), default=None),
    }
    facts |= {"sentence": _sentence(spec, facts), "history": history}
    write_json(out / "drift.json", facts)
    return facts


def reference_at_training(
    spec: TaskSpec, rows: Sequence[Mapping[str, Any]], until: float, used: Collection[str], fewest: int
) -> Reference | None:
    """Return production at the time of a model's training: the last window of rows (in any order) before its data were
    collected (seconds since 1970), extended to include `fewest` rows whose ids are in `used`. None if there are too few."""
    newest: list[Mapping[str, Any]] = []
    used_count = 0
    for row in sorted((r for r in rows if moment(r) <= until), key=lambda r: (moment(r), str(r["id"])), reverse=True):
        if len(newest) >= spec.drift.window_rows and used_count >= fewest:
            break
        newest.append(row)
        used_count += row["id"] in used
    if len(newest) < spec.drift.window_rows or used_count < fewest:
        return None
    return Reference([str(r["input"]) for r in newest], [str(r["output"]).strip() for r in newest])


def _sentence(spec: TaskSpec, facts: Mapping[str, Any]) -> str:
    if not facts["judged"]:
        return (
            f"{facts['watched']} production rows since the training data were collected: too few to detect drift "
            f"(a window has {spec.drift.window_rows})."
        )
    windows_text = f"{facts['windows']} windows of {spec.drift.window_rows} production rows"
    untested = [name for name, s in facts["signals"].items() if s["p"] is None and s["side"] != QUALITY]
    if untested:
        windows_text += f"; too few distinct texts or answers to test {', '.join(untested)}"
    known = ", ".join(facts["known"])
    if not facts["drifted"]:
        past = f"; {', '.join(facts['past'])} had drifted in earlier windows" if facts["past"] else ""
        if known:
            past = f"; in {known} they differ from all training rows together, but not from the newest ones{past}"
        return f"No new drift found in {windows_text}{past}." if known else f"No drift found in {windows_text}{past}."
    drifts = ", ".join(f"{name} ({100 * facts['signals'][name]['size']:.0f} points)" for name in facts["drifted"])
    return f"Production has drifted in {drifts}, first detected in the window that ended on {facts['since'][:10]} ({windows_text})."


DAY = 86_400


def moment(row: Mapping[str, Any]) -> float:
    """Return a row's time in seconds since 1970."""
    return moment_of(row["timestamp"])


def version_of(logged: str) -> str:
    """Return the number of a logged model version: `3`, `v3`, `triage:3` (as `finetune serve` writes it), `triage/3` and
    `models:/triage/3` are all 3."""
    return re.split("[/:]", logged)[-1].strip().removeprefix("v")


def level_of(window: int, false_alarms: float, expected: int) -> float:
    """Return the significance level of the window-th test (from 1): its share of the false alarms allowed for the whole watch.

    Half is spread evenly over the first `expected` windows, half of the rest over as many more, and so on. So the probability
    of any false alarm stays below `false_alarms` for any dependence between windows (union bound); they are dependent,
    since all are compared with the same training rows.
    """
    return false_alarms * 0.5 ** (1 + (window - 1) // expected) / expected


def watch(
    spec: TaskSpec,
    reference: Reference,
    rows: Sequence[Mapping[str, Any]],
    first: int = 1,
    other_versions: Collection[str] = (),
) -> Iterator[dict[str, Any]]:
    """Test every complete window of the rows (in any order) from the `first` on, oldest first.

    other_versions: numbers of other model versions; of rows that they answered, only inputs are tested. Each window: {window,
    rows, first, last, level, signals {name: {size, p, p_watch, alarm, …figures}}}. p: of the single test, None if it could not be
    tested. p_watch: p corrected for all signals and all tests of the watch, to compare with drift.false_alarms. alarm:
    p_watch is small enough and size is at least drift.min_size. Inputs and outputs are tested at once; feedback after
    drift.feedback_days in the rows' own time. No window is tested twice.
    """
    settings = spec.drift
    ordered = sorted(rows, key=lambda r: (moment(r), str(r["id"])))
    signals = signals_of(spec)
    rows_per_window = settings.window_rows
    for number in range(first, len(ordered) // rows_per_window + 1):
        start = rows_per_window * (number - 1)
        window_rows = ordered[start : start + rows_per_window]
        level = level_of(number, settings.false_alarms, settings.expected_windows)
        all_rows = Window(window_rows, ordered[:start], level / len(signals))
        own_rows = Window(
            _without(window_rows, other_versions), _without(ordered[:start], other_versions), level / len(signals)
        )
        settled = moment(ordered[-1]) - moment(window_rows[-1]) >= settings.feedback_days * DAY
        results = {}
        for signal in signals:
            if signal.side == QUALITY and not settled:
                continue
            change = signal.measure(spec, reference, all_rows if signal.side == INPUT else own_rows)
            corrected = None
            if change.p is not None:
                corrected = min(1.0, change.p * len(signals) * settings.false_alarms / level)
            results[signal.name] = {
                "size": round(change.size, 4),
                "p": change.p,
                "p_watch": corrected,
                "alarm": corrected is not None
                and corrected <= settings.false_alarms
                and change.size >= settings.min_size,
                **{name: round(value, 6) for name, value in change.figures.items()},
            }
        yield {
            "window": number,
            "rows": len(window_rows),
            "first": window_rows[0]["timestamp"],
            "last": window_rows[-1]["timestamp"],
            "level": level,
            "signals": results,
        }


def _without(rows: Sequence[Mapping[str, Any]], other_versions: Collection[str]) -> Sequence[Mapping[str, Any]]:
    return [r for r in rows if version_of(str(r["model_version"])) not in other_versions] if other_versions else rows
