"""The month as a picture: right answers day by day, which version served, and what happened, numbered."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from month_story import Story, right, served_by

from finetune_pipeline.report.plots import ACCENT, INK, LINE, SOFT, canvas, draw_document

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHART, _LINE, _COLUMNS = 230, 17, 136
_TITLE = "A month of one task: share of right answers day by day, and what happened"


def draw(story: Story, events: Sequence[tuple[int, str, str]]) -> str:
    """A self-contained SVG. events: (day, who, what) in order."""
    numbers: dict[int, list[int]] = {}
    for number, (day, _, _) in enumerate(events, 1):
        numbers.setdefault(day, []).append(number)
    lines = [
        (str(number) if i == 0 else "", line)
        for number, (day, who, what) in enumerate(events, 1)
        for i, line in enumerate(textwrap.wrap(f"day {day}, {who}: {what}", _COLUMNS))
    ]
    above = 40 + 13 * max(map(len, numbers.values()), default=1)
    below = 70 + _LINE * len(lines)
    height = above + _CHART + below

    def figure(width: int) -> Figure:
        made, axes = canvas(width, height, 46, 12, above, below)
        axes.set_xlim(0, len(story.days) + 1)
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], [f"{share}%" for share in (0, 25, 50, 75, 100)])
        axes.yaxis.grid(True, color=LINE)
        axes.set_xticks(range(1, len(story.days) + 1))
        made.text(
            46 / width, 1 - 14 / height, "Right answers, of those people judged; a day is 60 requests", weight="bold"
        )
        for day, found in numbers.items():
            axes.axvline(day, color=SOFT, linestyle=(0, (3, 3)), linewidth=1)
            for i, number in enumerate(reversed(found)):
                axes.annotate(str(number), (day, 1), (0, 6 + 13 * i), xycoords=("data", "axes fraction"),
                              textcoords="offset pixels", ha="center", weight="bold", fontsize=12)  # fmt: skip
        shares = [good / max(judged, 1) for good, judged in map(right, story.days)]
        axes.plot(range(1, len(shares) + 1), shares, "o-", color=ACCENT, linewidth=2.4, markersize=7)
        for first, last, version in _served(story):
            axes.plot([first - 0.45, last + 0.45], [-0.13, -0.13], color=INK, linewidth=1.5)
            name = f"version {version}" if last - first >= 2 else version
            axes.text((first + last) / 2, -0.2, name, ha="center", color=SOFT, fontsize=12)
        for i, (number, line) in enumerate(lines):
            y = (below - 76 - _LINE * i) / height
            made.text(40 / width, y, number, weight="bold", ha="right", fontsize=12)
            made.text(46 / width, y, line, color=SOFT, fontsize=12)
        return made

    return draw_document("month", _TITLE, figure, 900)


def _served(story: Story) -> list[tuple[int, int, str]]:
    """Runs of days with the same versions: first and last day, and the versions."""
    runs: list[tuple[int, int, str]] = []
    for day, versions in enumerate(("+".join(served_by(day)) for day in story.days), 1):
        if runs and runs[-1][2] == versions:
            runs[-1] = (runs[-1][0], day, versions)
        else:
            runs.append((day, day, versions))
    return runs
