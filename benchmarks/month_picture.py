"""The month as a picture: right answers day by day, which version served, and what happened, numbered."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from html import escape

from month_story import Story, right, served_by

from finetune_pipeline.report.plots import standalone

_WIDTH, _CHART, _LEFT, _RIGHT, _LINE, _COLUMNS = 900, 230, 46, 12, 17, 136
_TITLE = "A month of one task: share of right answers day by day, and what happened"


def draw(story: Story, events: Sequence[tuple[int, str, str]]) -> str:
    """A self-contained SVG. events: (day, who, what) in order."""
    numbers: dict[int, list[int]] = {}
    for number, (day, _, _) in enumerate(events, 1):
        numbers.setdefault(day, []).append(number)
    above = 40 + 13 * max(map(len, numbers.values()), default=1)
    bottom = above + _CHART
    step = (_WIDTH - _LEFT - _RIGHT) / (len(story.days) + 1)

    def x(day: float) -> float:
        return _LEFT + day * step

    def y(share: float) -> float:
        return bottom - share * _CHART

    parts = [_text(_LEFT, 14, "Right answers, of those people judged; a day is 60 requests", "strong", "start")]
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_line(_LEFT, y(share), _WIDTH - _RIGHT, y(share), "grid"))
        parts.append(_text(_LEFT - 6, y(share) + 4, f"{share:.0%}", anchor="end"))
    for day, found in numbers.items():
        parts.append(_line(x(day), above - 6, x(day), bottom, "mark"))
        for level, number in enumerate(reversed(found)):
            parts.append(_text(x(day), above - 10 - 13 * level, str(number), "strong"))
    shares = [(n, good / max(told, 1)) for n, (good, told) in enumerate(map(right, story.days), 1)]
    line = " ".join(f"{x(n):.1f},{y(share):.1f}" for n, share in shares)
    parts.append(f'<polyline points="{line}" class="curve valid"/>')
    for n, share in shares:
        title = f"day {n}: {share:.0%}, version {', '.join(served_by(story.days[n - 1]))}"
        parts.append(
            f'<circle cx="{x(n):.1f}" cy="{y(share):.1f}" r="3.5" class="point"><title>{title}</title></circle>'
        )
        parts.append(_text(x(n), bottom + 18, str(n)))
    parts.append(_text(_LEFT - 6, bottom + 18, "day", anchor="end"))
    parts += _versions(story, x, step, bottom + 26)
    top = bottom + 74.0
    for number, (day, who, what) in enumerate(events, 1):
        parts.append(_text(_LEFT - 6, top, str(number), "strong", "end"))
        for told in textwrap.wrap(f"day {day}, {who}: {what}", _COLUMNS):
            parts.append(_text(_LEFT, top, told, anchor="start"))
            top += _LINE
        top += 3
    return standalone(
        f'<svg viewBox="0 0 {_WIDTH} {top:.0f}" width="{_WIDTH}" height="{top:.0f}" role="img" aria-label="{_TITLE}">'
        f"{''.join(parts)}</svg>"
    )


def _versions(story: Story, x: Callable[[float], float], step: float, top: float) -> list[str]:
    """A band below the days: which version answered."""
    parts, start = [], 1
    served = ["+".join(served_by(day)) for day in story.days]
    for n, version in enumerate(served, 1):
        if n == len(served) or served[n] != version:
            left, right_end = x(start) - step / 2 + 1, x(n) + step / 2 - 1
            parts.append(_line(left, top + 4, right_end, top + 4, "zero"))
            name = f"version {version}" if n - start >= 2 else version
            parts.append(_text((left + right_end) / 2, top + 18, name))
            start = n + 1
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def _text(left: float, top: float, told: str, style: str = "tick", anchor: str = "middle") -> str:
    return f'<text x="{left:.1f}" y="{top:.1f}" class="{style}" text-anchor="{anchor}">{escape(told)}</text>'
