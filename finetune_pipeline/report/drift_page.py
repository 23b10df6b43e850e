"""Builds the page of the drift report: the latest result of every signal, and its effect size over time."""

from finetune_pipeline.evaluation.wording import NOTHING, level, p_value
from finetune_pipeline.production.drift import DriftReport, TestedWindow
from finetune_pipeline.report.blocks import Block, Heading, Page, Section, Table, Verdict, figure, text
from finetune_pipeline.report.comparison import unsigned
from finetune_pipeline.report.plots import signal_over_time


def drift_page(task: str, false_alarms: float, report: DriftReport) -> Page:
    """Build the page of a drift report. false_alarms: accepted probability of any alarm over a whole watch
    without a change."""
    waiting = f"{report.waiting_rows} waiting for a full window"
    lead = f"{report.rows:,} production rows, {report.watched:,} of them watched, {waiting}."
    if report.by_others:
        lead += f" {report.by_others:,} were answered by other versions: only their inputs are tested."
    note = (
        f"Compared with {report.reference}. A red dot is an alarm: the probability of any false alarm over a whole watch is "
        f"at most {level(false_alarms)}, over all signals and windows. A hollow dot and a p of {NOTHING} mean: not tested, "
        "since there were too few rows or no feedback."
    )
    signals, history = report.signals, report.history
    days = [window.last[:10] for window in history]
    plots: list[Block] = []
    for name in signals:
        sizes = {
            window.window: (100 * result.size, result.p is not None, result.alarm)
            for window in history
            if (result := window.signals.get(name))
        }
        plots += [Heading(name), signal_over_time(name, days, sizes)] if sizes else []
    status, answer = ("passed", "No alarm.") if history else ("warned", "Nothing was tested yet.")
    if report.drifted:
        status, answer = "failed", "Alarm."
    return Page(
        f"Drift: {task}",
        lead,
        Verdict(status, answer, report.sentence),
        [
            Section.of("signals", "Latest results", [note, _signals(report)] if signals else []),
            Section.of("time", "Size over time", plots),
            Section.of("windows", "Windows", [_windows(history)]),
        ],
        unfolded=2,
    )


def _minute(time: str | None) -> str:
    """Format an RFC 3339 time to the minute."""
    return (time or "")[:16].replace("T", " ")


def _signals(report: DriftReport) -> Table:
    columns = [("Signal", text), ("Side", text), ("Size, points", unsigned), ("p of one test", p_value)]
    columns += [("p over the watch", p_value), ("Alarm since", text), ("What the size means", text)]
    rows = [[name, s.side, s.size, s.p, s.p_watch, _minute(s.since), s.meaning] for name, s in report.signals.items()]
    strong = [i for i, name in enumerate(report.signals) if name in report.drifted]
    return Table(columns, rows, strong, style="atlas")


def _windows(history: list[TestedWindow]) -> Table:
    alarms = [", ".join(n for n, s in w.signals.items() if s.alarm) or "none" for w in history]
    times = [(w.window, _minute(w.first), _minute(w.last)) for w in history]
    columns = [("Window", figure), ("From", text), ("To", text), ("Alarms", text)]
    rows = [[*time, alarm] for time, alarm in zip(times, alarms, strict=True)]
    return Table(columns, rows, [i for i, alarm in enumerate(alarms) if alarm != "none"], style="")
