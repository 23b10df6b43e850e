"""The page of a drift watch: what it says, each signal over time, and the figures of the newest window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from finetune_pipeline.report.markup import page, paragraphs, table
from finetune_pipeline.report.plots import nice_ticks
from finetune_pipeline.report.style import STYLE
from finetune_pipeline.report.tables import Table

_STYLE = STYLE + "svg .alarm { fill: var(--bad); stroke: var(--paper); stroke-width: 1.5; }\n"
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 880, 150, 56, 20, 14, 26


def render_drift(task: str, false_alarms: float, facts: Mapping[str, Any]) -> str:
    """The whole page, self-contained."""
    style = "verdict no" if facts["drifted"] else "verdict"
    head = f'<div class="{style}">{paragraphs([facts["sentence"]])}</div>'
    how = (
        f"Held against {facts['reference']}. A red dot is an alarm: the chance that a whole watch raises any of them "
        f"though nothing changed is at most {false_alarms:.0%}, over all signals and all windows. A hollow dot was not "
        "judged: too few rows, or no feedback yet."
    )
    sections = [
        ("signals", "Newest judgement", paragraphs([how]) + table(_figures(facts), "figures")),
        ("time", "Over time", "".join(_panel(name, facts) for name in facts["signals"])),
        ("windows", "Windows", table(_windows(facts["history"]))),
    ]
    watched, waiting = facts["watched"], facts["waiting_rows"]
    lead = f"{facts['rows']:,} production rows, {watched:,} of them watched, {waiting} waiting for a full window."
    if facts["by_others"]:
        lead += f" {facts['by_others']:,} were answered by other versions: only what was asked in them is judged."
    return page(f"Drift: {task}", lead, _STYLE, head, sections)


def _said(p: float | None) -> str:
    return "not judged" if p is None else f"{p:.2g}" if p >= 0.0001 else "< 0.0001"


def _figures(facts: Mapping[str, Any]) -> Table:
    rows = [
        [name, s["side"], f"{s['size']:.3f}", _said(s["p"]), _said(s["p_watch"]), s["since"] or "", s["meaning"]]
        for name, s in facts["signals"].items()
    ]
    strong = frozenset(i for i, name in enumerate(facts["signals"]) if name in facts["drifted"])
    headers = ["Signal", "Side", "Size", "p of one test", "p over the watch", "Alarm since", "What the size means"]
    return Table(headers, rows, "llrrrll", strong)


def _windows(history: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [str(w["window"]), w["first"], w["last"], ", ".join(n for n, s in w["signals"].items() if s["alarm"]) or "none"]
        for w in history
    ]
    return Table(
        ["Window", "From", "To", "Alarms"], rows, "rlll", frozenset(i for i, row in enumerate(rows) if row[3] != "none")
    )


def _panel(name: str, facts: Mapping[str, Any]) -> str:
    """Size of one signal over the windows, as SVG."""
    history = facts["history"]
    points = [(w["window"], w["last"], w["signals"][name]) for w in history if name in w["signals"]]
    ticks = nice_ticks(0.0, max(0.1, *(s["size"] for _, _, s in points)), 4)
    bottom = _HEIGHT - _BOTTOM

    def x(window: int) -> float:
        return _LEFT + (window - 0.5) / len(history) * (_WIDTH - _LEFT - _RIGHT)

    def y(size: float) -> float:
        return bottom - size / ticks[-1] * (bottom - _TOP)

    parts = [f'<line x1="{_LEFT}" y1="{y(t):.1f}" x2="{_WIDTH - _RIGHT}" y2="{y(t):.1f}" class="grid"/>' for t in ticks]
    parts += [f'<text x="{_LEFT - 8}" y="{y(t) + 4:.1f}" class="tick" text-anchor="end">{t:g}</text>' for t in ticks]
    step = max(1, len(history) // 8)
    parts += [
        f'<text x="{x(w["window"]):.1f}" y="{_HEIGHT - 8}" class="tick" text-anchor="middle">{escape(w["last"][:10])}</text>'
        for w in history[::step]
    ]
    line = " ".join(f"{x(w):.1f},{y(s['size']):.1f}" for w, _, s in points)
    parts.append(f'<polyline points="{line}" class="curve valid"/>')
    for window, last, s in points:
        kind = "alarm" if s["alarm"] else "point"
        hollow = ' fill-opacity="0.2"' if s["p"] is None else ""
        hover = f"window {window}, until {last}: size {s['size']:.3f}, p over the watch {_said(s['p_watch'])}"
        parts.append(
            f'<circle cx="{x(window):.1f}" cy="{y(s["size"]):.1f}" r="4" class="{kind}"{hollow}>'
            f"<title>{escape(hover)}</title></circle>"
        )
    title = escape(f"{name}: size over time")
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg>'
    return f"<h3>{escape(name)}</h3>{svg}"
