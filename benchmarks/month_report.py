"""The report of month.py: a timeline, a picture, and the expected events with whether each happened."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.month_history import DriftLook, History, Run, count_right, read_history, versions_served
from benchmarks.month_world import DAYS, REQUESTS_PER_DAY, SHIFT_DAY
from finetune_pipeline.report.plots import ACCENT, INK, LINE, SOFT, canvas
from finetune_pipeline.report.plots import draw as draw_plot
from finetune_pipeline_tests.graph.project import Project

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Event = tuple[float, str, str]
"""Time (seconds since 1970), who, what."""
_CHART_HEIGHT, _LINE_HEIGHT, _COLUMNS = 230, 17, 136
_TITLE = "A month of one task: share of right answers day by day, and what happened"


def report(project: Project, planted: Mapping[str, object], picture: Path) -> int:
    """Print the timeline, draw it, and print which expected events happened. Returns the exit code."""
    history = read_history(project, planted)
    events = list_events(history)
    print("\n".join(["", *timeline(history, events), ""]))
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(draw(history, [(history.day_of(time), who, what) for time, who, what in events]), "utf-8")
    expected = expected_events(history)
    for event, happened in expected.items():
        print(f"{'shown    ' if happened else 'NOT SHOWN'}  {event}")
    return 0 if all(expected.values()) else 1


def expected_events(history: History) -> dict[str, bool]:
    """Whether each event that the month must show happened."""
    shift, planted = history.began(SHIFT_DAY), history.planted
    looks = history.drift_looks
    before = [x for x in looks if x.windows and x.rows <= (SHIFT_DAY - 1) * REQUESTS_PER_DAY and x.time < shift]
    after = [look for look in looks if look.time > shift]
    automatic, sensor_runs = history.automatic_candidate, history.sensor_runs
    retrained = [x for x in after if automatic is not None and x.windows and x.trained_on == automatic.data]
    bad_version = (planted.get("bad_candidate") or {}).get("version")
    bad_champion = planted.get("bad_champion") or {}
    planted_at = bad_champion.get("time", float("inf"))
    refused = [candidate for candidate in history.candidates if candidate.number == bad_version]
    served = {number for day in history.days for number in versions_served(day)}
    rollbacks = [reason for time, reason in history.rollbacks if time > planted_at]
    failures = [check.time for check in history.checks if not check.passed]
    complete = (
        len(history.days) == DAYS
        and sum(map(len, history.days)) == planted.get("requests")
        and history.feedback == planted.get("labelled")
        and history.quarantined == 0
    )
    return {
        f"{DAYS} days were played; every request is one log row, every feedback one line": complete,
        "answers were labelled on every day": bool(history.days) and all(count_right(day)[1] for day in history.days),
        "production was checked before the shift, without a drift alarm": bool(before)
        and not any(look.drifted for look in before),
        "drift was reported after the shift": any(look.drifted for look in after),
        "a sensor started a run after the drift report": bool(sensor_runs)
        and sensor_runs[0].status == "SUCCESS"
        and any(look.drifted and look.time < sensor_runs[0].time for look in after),
        "its candidate passed every gate, was promoted and served": automatic is not None
        and not automatic.failed_gates
        and str(automatic.number) in served,
        "its candidate beat the champion on recent production rows": automatic is not None
        and automatic.won_on_recent_rows,
        "production was compared with the new training data, and what it holds started no second run": bool(retrained)
        and not any(look.drifted for look in retrained)
        and len(sensor_runs) == 1,
        "the planted bad candidate was refused": bool(refused) and bool(refused[0].failed_gates),
        "the planted bad champion was rolled back by the alarm": bool(rollbacks)
        and "champion alarm" in rollbacks[0]
        and history.aliases.get("champion") == bad_champion.get("good"),
        "the champion's check failed meanwhile, and passes again": bool(failures)
        and all(time > planted_at for time in failures)
        and history.checks[-1].passed,
    }


def list_events(history: History) -> list[Event]:
    """What happened, in order: of the drift reports and checks only the changes."""
    events: list[Event] = []
    if len(history.days) >= SHIFT_DAY:
        events.append((history.began(SHIFT_DAY), "world", "from now on the questions are different"))
    previous: DriftLook | None = None
    for look in history.drift_looks:
        if not look.windows:
            continue
        if previous is None or (look.drifted, look.known, look.trained_on) != (
            previous.drifted,
            previous.known,
            previous.trained_on,
        ):
            p_values = ", ".join(
                f"{name} {look.p[name]:.2g}" for name in (*look.drifted, *look.known) if name in look.p
            )
            suffix = f" p over the watch: {p_values}." if p_values else ""
            events.append((look.time, "drift report", f"{look.sentence}{suffix}"))
        previous = look
    for run in history.sensor_runs:
        events.append((run.time, f"sensor {run.trigger}", f"starts a run: {_new_in_reason(run, history)}"))
    for candidate in history.candidates:
        failed = candidate.failed_gates
        outcome = f"refused by {', '.join(failed)}" if failed else f"promoted: {len(candidate.gates)} gates passed"
        recent = f"; {candidate.on_recent_rows}" if candidate.on_recent_rows else ""
        events.append((candidate.time, "release", f"version {candidate.number} {outcome}{recent}"))
    if champion := history.planted.get("bad_champion"):
        text = f"planted: version {champion['version']} made champion by hand in MLflow, past the gates"
        events.append((champion["time"], "world", text))
    if bad_candidate := history.planted.get("bad_candidate"):
        text = "planted: a learning rate of a millionth in task.yaml, `finetune run`"
        events.append((bad_candidate["time"], "world", text))
    events += [(time, "sensor champion", f"rolled back: {reason}") for time, reason in history.rollbacks]
    passed_before = True
    for check in history.checks:
        if check.passed != passed_before:
            change = "passes again" if check.passed else "fails"
            events.append((check.time, "asset check", f"champion_serves_well {change}: {check.message}"))
        passed_before = check.passed
    return sorted(events)


def _new_in_reason(run: Run, history: History) -> str:
    """Why a run began, without the sentence of the drift report, which is an event of its own."""
    for look in history.drift_looks:
        if run.reason.startswith(look.sentence):
            return run.reason.removeprefix(look.sentence).strip() or run.reason
    return run.reason


def timeline(history: History, events: Sequence[Event]) -> list[str]:
    """The whole month as text."""
    lines = ["day  rows  answered by     labelled  right of those"]
    for number, day in enumerate(history.days, 1):
        right, labelled = count_right(day)
        serving = f"version {', '.join(versions_served(day))}"
        lines.append(f"{number:3}  {len(day):4}  {serving:14}  {labelled:8}  {right / max(labelled, 1):6.1%}")
    lines += [
        "",
        f"{history.planted.get('requests')} requests, {history.planted.get('labelled')} labels sent; in the logs "
        f"{sum(map(len, history.days))} rows, {history.feedback} lines of feedback, {history.quarantined} lines quarantined; "
        f"{history.held} corrections held back as possible poison",
        "",
        "day  who              what",
        *(f"{history.day_of(time):3}  {who:15}  {what}" for time, who, what in events),
        "",
        "drift reports",
        "day  rows  windows  drifted / known / lowest p over the watch; decision",
    ]
    for look in history.drift_looks:
        lowest = min(look.p.items(), key=lambda item: item[1], default=None)
        p = f"{lowest[0]} {lowest[1]:.2g}" if lowest else "not judged"
        signals = f"{', '.join(look.drifted) or '-'} / {', '.join(look.known) or '-'} / {p}"
        lines.append(f"{history.day_of(look.time):3}  {look.rows:4}  {look.windows:7}  {signals}; {look.decision}")
    lines += ["", "runs", "day  job                   started by     ended     why"]
    lines += [
        f"{history.day_of(run.time):3}  {run.job:20}  {run.trigger:13}  {run.status:8}  {run.reason}".rstrip()
        for run in history.runs
    ]
    for candidate in history.candidates:
        lines += ["", f"gates of version {candidate.number}"]
        lines += [f"  {'passed' if passed else 'FAILED'}  {name}: {why}" for name, passed, why in candidate.gates]
    return [*lines, "", f"at the end: {json.dumps(dict(history.aliases))}"]


def draw(history: History, events: Sequence[tuple[int, str, str]]) -> str:
    """Draw the month as a self-contained SVG: right answers, versions served, and numbered events.

    Args:
        history: The month.
        events: (day, who, what) in order.
    """
    numbers: dict[int, list[int]] = {}
    for number, (day, _, _) in enumerate(events, 1):
        numbers.setdefault(day, []).append(number)
    lines = [
        (str(number) if i == 0 else "", line)
        for number, (day, who, what) in enumerate(events, 1)
        for i, line in enumerate(textwrap.wrap(f"day {day}, {who}: {what}", _COLUMNS))
    ]
    above = 40 + 13 * max(map(len, numbers.values()), default=1)
    below = 70 + _LINE_HEIGHT * len(lines)
    height = above + _CHART_HEIGHT + below
    days = range(1, len(history.days) + 1)
    heading = "Right answers, of those that were labelled; a day is 60 requests"

    def figure(width: int) -> Figure:
        drawing, axes = canvas(width, height, 46, 12, above, below)
        axes.set_xlim(0, len(history.days) + 1)
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], [f"{share}%" for share in (0, 25, 50, 75, 100)])
        axes.yaxis.grid(True, color=LINE)
        axes.set_xticks(days)
        drawing.text(46 / width, 1 - 14 / height, heading, weight="bold")
        for day, of_day in numbers.items():
            axes.axvline(day, color=SOFT, linestyle=(0, (3, 3)), linewidth=1)
            for i, number in enumerate(reversed(of_day)):
                axes.annotate(str(number), (day, 1), (0, 6 + 13 * i), xycoords=("data", "axes fraction"),
                              textcoords="offset pixels", ha="center", weight="bold", fontsize=12)  # fmt: skip
        shares = [right / max(labelled, 1) for right, labelled in map(count_right, history.days)]
        axes.plot(days, shares, "o-", color=ACCENT, linewidth=2.4, markersize=7)
        for first, last, version in _serving_periods(history):
            axes.plot([first - 0.45, last + 0.45], [-0.13, -0.13], color=INK, linewidth=1.5)
            name = f"version {version}" if last - first >= 2 else version
            axes.text((first + last) / 2, -0.2, name, ha="center", color=SOFT, fontsize=12)
        for i, (label, line) in enumerate(lines):
            y = (below - 76 - _LINE_HEIGHT * i) / height
            drawing.text(40 / width, y, label, weight="bold", ha="right", fontsize=12)
            drawing.text(46 / width, y, line, color=SOFT, fontsize=12)
        return drawing

    return draw_plot("month", _TITLE, figure).document


def _serving_periods(history: History) -> list[tuple[int, int, str]]:
    """First day, last day and versions of each period in which the same versions served."""
    periods: list[tuple[int, int, str]] = []
    for day, versions in enumerate(("+".join(versions_served(day)) for day in history.days), 1):
        if periods and periods[-1][2] == versions:
            periods[-1] = (periods[-1][0], day, versions)
        else:
            periods.append((day, day, versions))
    return periods
