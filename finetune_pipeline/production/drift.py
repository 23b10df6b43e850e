"""Drift detection: compares production with the champion's training data, window by window."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from finetune_pipeline.engine.files import write_json
from finetune_pipeline.evaluation.production_rows import LoggedRow
from finetune_pipeline.evaluation.production_rows import moment as moment_of
from finetune_pipeline.production.signals import INPUT, QUALITY, Reference, Window, signals_of
from finetune_pipeline.spec.model import TaskSpec

RECENT = 3
"""Number of recent windows whose alarms count as current drift; older alarms count as past."""


class Tested(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a signal in one window.

    Attributes:
        size: Effect size, a share between 0 and 1.
        p: Of the single test; None if it could not be tested.
        p_watch: p corrected for all signals and all tests of the watch, to compare with drift.false_alarms.
        alarm: p_watch is small enough and size is at least drift.min_size.
        figures: Further figures of the signal's test.
    """

    size: float
    p: float | None
    p_watch: float | None
    alarm: bool
    figures: Mapping[str, float] = {}


class Latest(Tested, frozen=True, kw_only=True):
    """The newest result of a signal, with what it is. since: end of the first window with an alarm."""

    side: str
    meaning: str
    since: str | None


class TestedWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A tested window: its number from 1, rows, first and last timestamp, significance level, and results by signal."""

    window: int
    rows: int
    first: str
    last: str
    level: float
    signals: Mapping[str, Tested]


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of the step drift_report.

    Attributes:
        rows: Logged rows; `watched` of them came in since the training data were collected.
        newest: Timestamp of the newest row.
        by_others: Watched rows that other model versions answered.
        windows: Number of tested windows; `waiting_rows` do not fill another one.
        judged: Whether any window was tested.
        reference: What production is compared with, in words; `trained_on`: the version of its splits.
        drifted: Signals with an alarm in a recent window, apart from the `known` ones, which production at the time of training
            had already. `past`: signals with older alarms only.
        since: End of the first window in which one of the drifted signals had an alarm.
        history: All tested windows, oldest first.
    """

    rows: int
    newest: str | None = None
    watched: int
    by_others: int
    windows: int
    waiting_rows: int
    judged: bool
    reference: str
    signals: Mapping[str, Latest]
    drifted: list[str]
    known: list[str]
    past: list[str]
    since: str | None
    sentence: str
    history: list[TestedWindow]
    trained_on: str = ""


def drift_report(
    spec: TaskSpec,
    reference: Reference,
    rows: Sequence[LoggedRow],
    out: Path,
    after: float | None = None,
    reference_name: str = "the training rows",
    learned: Reference | None = None,
    other_versions: Collection[str] = (),
    trained_on: str = "",
) -> DriftReport:
    """Compare production rows with the model's training data, window by window (see :func:`watch`), and write drift.json.

    Args:
        reference: The training data, with the champion's test answers if there are any.
        after: Seconds since 1970; rows up to then predate the collection of the training data and are left out.
        learned: Production at the time of training (see :func:`reference_at_training`). Inputs or outputs that differ from
            the reference but not from this are reported as known and need no action.
        trained_on: Version of the splits with the training data.
    """
    watched = [row for row in rows if after is None or moment(row) > after]
    history = list(watch(spec, reference, watched, other_versions=other_versions))
    signals: dict[str, Latest] = {}
    recent: list[str] = []
    past: list[str] = []
    for signal in signals_of(spec):
        windows = [window for window in history if signal.name in window.signals]
        if not windows:
            continue
        results = [window.signals[signal.name] for window in windows]
        since = next((window.last for window in windows if window.signals[signal.name].alarm), None)
        latest = msgspec.structs.asdict(results[-1])
        signals[signal.name] = Latest(**latest, side=signal.side, meaning=signal.meaning, since=since)
        if any(result.alarm for result in results[-RECENT:]):
            recent.append(signal.name)
        elif since:
            past.append(signal.name)
    new_signals = set(recent)
    if learned is not None and recent:
        recent_windows = watch(spec, learned, watched, max(1, len(history) - RECENT + 1), other_versions)
        # quality is always compared with earlier windows of the same watch
        new_signals = {name for name in recent if signals[name].side == QUALITY}
        new_signals |= {name for window in recent_windows for name, result in window.signals.items() if result.alarm}
    drifted = [name for name in recent if name in new_signals]
    report = DriftReport(
        rows=len(rows),
        newest=max((r["timestamp"] for r in rows), key=moment_of, default=None),
        watched=len(watched),
        by_others=len(watched) - len(_without(watched, other_versions)),
        windows=len(history),
        waiting_rows=len(watched) - spec.drift.window_rows * len(history),
        judged=bool(history),
        reference=reference_name,
        signals=signals,
        drifted=drifted,
        known=[name for name in recent if name not in new_signals],
        past=past,
        since=min((since for name in drifted if (since := signals[name].since)), default=None),
        sentence="",
        history=history,
        trained_on=trained_on,
    )
    report = msgspec.structs.replace(report, sentence=_sentence(spec, report))
    write_json(out / "drift.json", msgspec.to_builtins(report))
    return report


def reference_at_training(
    spec: TaskSpec, rows: Sequence[LoggedRow], until: float, used: Collection[str], fewest: int
) -> Reference | None:
    """Return production at the time of a model's training; None if there are too few rows.

    It is the last window of rows (given in any order) before the training data were collected, `until` in seconds since 1970,
    extended to include `fewest` of the rows that were `used` for training (their ids).
    """
    newest: list[LoggedRow] = []
    used_count = 0
    for row in reversed(_by_time(row for row in rows if moment(row) <= until)):
        if len(newest) >= spec.drift.window_rows and used_count >= fewest:
            break
        newest.append(row)
        used_count += row["id"] in used
    if len(newest) < spec.drift.window_rows or used_count < fewest:
        return None
    window = Window(newest, (), 1.0)
    return Reference(window.texts, window.answers)


def _sentence(spec: TaskSpec, report: DriftReport) -> str:
    if not report.judged:
        return (
            f"{report.watched} production rows since the training data were collected: too few to detect drift "
            f"(a window has {spec.drift.window_rows})."
        )
    windows_text = f"{report.windows} windows of {spec.drift.window_rows} production rows"
    untested = [name for name, latest in report.signals.items() if latest.p is None and latest.side != QUALITY]
    if untested:
        windows_text += f"; too few distinct texts or answers to test {', '.join(untested)}"
    if not report.drifted:
        past = f"; {', '.join(report.past)} had drifted in earlier windows" if report.past else ""
        if not report.known:
            return f"No drift found in {windows_text}{past}."
        known = (
            f"; in {', '.join(report.known)} they differ from all training rows together, but not from the newest ones"
        )
        return f"No new drift found in {windows_text}{known}{past}."
    drifts = ", ".join(f"{name} ({100 * report.signals[name].size:.0f} points)" for name in report.drifted)
    day = (report.since or "")[:10]
    return f"Production has drifted in {drifts}, first detected in the window that ended on {day} ({windows_text})."


DAY = 86_400


def moment(row: LoggedRow) -> float:
    """Return a row's time in seconds since 1970."""
    return moment_of(row["timestamp"])


def version_of(logged: str) -> str:
    """Return the number of a logged model version: `3`, `v3`, `triage:3` (as `finetune serve` writes it), `triage/3` and
    `models:/triage/3` are all 3."""
    return re.split("[/:]", logged)[-1].strip().removeprefix("v")


def level_of(window: int, false_alarms: float, expected: int) -> float:
    """Return the significance level of the tests of one window, counted from 1.

    Half of `false_alarms`, the probability allowed for any false alarm of the watch, is spread evenly over the first `expected`
    windows, half of the rest over as many more, and so on. The sum of all levels bounds the probability for any dependence
    between windows (union bound); they are dependent, since all are compared with the same training rows.
    """
    return false_alarms * 0.5 ** (1 + (window - 1) // expected) / expected


def watch(
    spec: TaskSpec,
    reference: Reference,
    rows: Sequence[LoggedRow],
    first: int = 1,
    other_versions: Collection[str] = (),
) -> Iterator[TestedWindow]:
    """Test every complete window of the rows, oldest first.

    Inputs and outputs are tested at once, feedback after drift.feedback_days in the rows' own time. No window is tested twice.

    Args:
        rows: In any order.
        first: Number of the first window to test, from 1.
        other_versions: Numbers of other model versions; of rows that they answered, only inputs are tested.
    """
    settings = spec.drift
    ordered = _by_time(rows)
    signals = signals_of(spec)
    rows_per_window = settings.window_rows
    for number in range(first, len(ordered) // rows_per_window + 1):
        start = rows_per_window * (number - 1)
        window_rows = ordered[start : start + rows_per_window]
        level = level_of(number, settings.false_alarms, settings.expected_windows)
        earlier_rows = ordered[:start]
        all_rows = Window(window_rows, earlier_rows, level / len(signals))
        of_version = Window(
            _without(window_rows, other_versions), _without(earlier_rows, other_versions), level / len(signals)
        )
        own_rows = Window(_answered_itself(of_version.rows), _answered_itself(of_version.before), level / len(signals))
        settled = moment(ordered[-1]) - moment(window_rows[-1]) >= settings.feedback_days * DAY
        results = {}
        for signal in signals:
            if signal.side == QUALITY and not settled:
                continue
            compared = all_rows if signal.side == INPUT else of_version if signal.whoever else own_rows
            change = signal.measure(spec, reference, compared)
            p_watch = None
            if change.p is not None:
                p_watch = min(1.0, change.p * len(signals) * settings.false_alarms / level)
            is_significant = p_watch is not None and p_watch <= settings.false_alarms
            results[signal.name] = Tested(
                size=round(change.size, 4),
                p=change.p,
                p_watch=p_watch,
                alarm=is_significant and change.size >= settings.min_size,
                figures={name: round(value, 6) for name, value in change.figures.items()},
            )
        yield TestedWindow(
            window=number,
            rows=len(window_rows),
            first=window_rows[0]["timestamp"],
            last=window_rows[-1]["timestamp"],
            level=level,
            signals=results,
        )


def _by_time(rows: Iterable[LoggedRow]) -> list[LoggedRow]:
    return sorted(rows, key=lambda row: (moment(row), str(row["id"])))


def _without(rows: Sequence[LoggedRow], other_versions: Collection[str]) -> Sequence[LoggedRow]:
    """Return the rows that came to none of these versions."""
    if not other_versions:
        return rows
    return [row for row in rows if version_of(str(row["model_version"])) not in other_versions]


def _answered_itself(rows: Sequence[LoggedRow]) -> Sequence[LoggedRow]:
    """Return the rows that nobody answered in the model's place."""
    return [row for row in rows if not row.get("answered_by")]
