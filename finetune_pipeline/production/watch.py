"""Windows of production rows in the order of their times, and how sure a window must be when there are many of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.production_rows import moment as moment_of
from finetune_pipeline.production.signals import INPUT, QUALITY, Reference, Window, signals_of
from finetune_pipeline.spec.model import TaskSpec

DAY = 86_400


def moment(row: Mapping[str, Any]) -> float:
    """Seconds since 1970 of a row's time."""
    return moment_of(row["timestamp"])


def version_of(told: str) -> str:
    """The number of a model version as a log may tell it: `3`, `v3`, `triage:3` (as `finetune serve` writes it), `triage/3`
    and `models:/triage/3` are all 3."""
    return re.split("[/:]", told)[-1].strip().removeprefix("v")


def level_of(window: int, false_alarms: float, expected: int) -> float:
    """What the window-th look (from 1) may spend of the false alarms allowed to the whole watch.

    Half is spread evenly over the first `expected` windows, half of the rest over as many again, and so on. The sum over
    all windows there can ever be is `false_alarms`, so that the chance of any false alarm stays under it whatever ties
    the windows to each other (union bound): they are all held against the same training rows.
    """
    if window < 1:
        raise ValueError(f"windows are counted from 1, not {window}")
    return false_alarms * 0.5 ** (1 + (window - 1) // expected) / expected


def watch(
    spec: TaskSpec,
    reference: Reference,
    rows: Sequence[Mapping[str, Any]],
    first: int = 1,
    others: Collection[str] = (),
) -> Iterator[dict[str, Any]]:
    """Judge every complete window of the rows (in any order) from the `first` on, oldest first.

    others: numbers of other versions of the model: what they answered is judged as asked, not as answered.
    Each window: {window, rows, first, last, level, signals {name: {size, p, p_watch, alarm, …figures}}}. p: of the single
    test, None where it could not be judged. p_watch: p corrected for all signals and for all looks of the watch, to be
    held against drift.false_alarms. alarm: p_watch is small enough and size is at least drift.min_size. Feedback is judged
    once drift.feedback_days have passed in the rows' own time, inputs and outputs at once: no window is looked at twice.
    """
    settings = spec.drift
    ordered = sorted(rows, key=lambda r: (moment(r), str(r["id"])))
    signals = signals_of(spec)
    size = settings.window_rows
    for number in range(first, len(ordered) // size + 1):
        start = size * (number - 1)
        inside = ordered[start : start + size]
        level = level_of(number, settings.false_alarms, settings.expected_windows)
        asked = Window(inside, ordered[:start], level / len(signals))
        answered = Window(_without(inside, others), _without(ordered[:start], others), level / len(signals))
        settled = moment(ordered[-1]) - moment(inside[-1]) >= settings.feedback_days * DAY
        told = {}
        for signal in signals:
            if signal.side == QUALITY and not settled:
                continue
            found = signal.measure(spec, reference, asked if signal.side == INPUT else answered)
            corrected = None
            if found.p is not None:
                corrected = min(1.0, found.p * len(signals) * settings.false_alarms / level)
            told[signal.name] = {
                "size": round(found.size, 4),
                "p": found.p,
                "p_watch": corrected,
                "alarm": corrected is not None
                and corrected <= settings.false_alarms
                and found.size >= settings.min_size,
                **{name: round(value, 6) for name, value in found.figures.items()},
            }
        yield {
            "window": number,
            "rows": len(inside),
            "first": inside[0]["timestamp"],
            "last": inside[-1]["timestamp"],
            "level": level,
            "signals": told,
        }


def _without(rows: Sequence[Mapping[str, Any]], others: Collection[str]) -> Sequence[Mapping[str, Any]]:
    return [r for r in rows if version_of(str(r["model_version"])) not in others] if others else rows
