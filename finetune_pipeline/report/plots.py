"""Draws plots with matplotlib as SVG: reproducible files, text as text, colours that follow the page."""

from __future__ import annotations

import io
import logging
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import escape

from finetune_pipeline.data.quality.parts import Bin
from finetune_pipeline.report.blocks import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW = 880, 400
"""Widths in pixels: for desktops, and for phones."""
INK, SOFT, LINE, ACCENT, BAD = "#1d2126", "#5b6470", "#dcdfe3", "#1f5fae", "#a8281f"
"""Colours on paper. On a page each is a variable of its style sheet, which has light and dark values."""
_VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", ACCENT: "accent", BAD: "bad"}
WIDE_RANGE = 10.0
"""Ratio of the largest to the smallest loss above which the scale is logarithmic, so that the curve does not look flat."""
MIN_DISTANCE = 0.07
"""Minimum distance between the names of two curves, as a share of the plot's height."""
LETTER = 7.9
"""Generous estimate of the mean width of a letter in pixels."""


@dataclass(frozen=True)
class Dot:
    """One line of a dot plot: a value with its interval, and both as text. `strong`: highlighted."""

    label: str
    value: float
    interval: tuple[float, float]
    text: str
    strong: bool = False


def draw(name: str, title: str, figure: Callable[[int], Figure]) -> Plot:
    """Draw a plot at both widths. name: of its file; title: its alternative text; figure: draws it at a width in pixels."""
    return Plot(name, title, _svg(name, title, figure, WIDE), _svg(name, title, figure, NARROW))


def _svg(name: str, title: str, figure: Callable[[int], Figure], width: int) -> str:
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # on import it warns of an unwritable home
    import matplotlib

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"{name} {width}",
        "text.parse_math": False,
        "font.family": "DejaVu Sans",
        "font.size": 13,
        "text.color": INK,
        "axes.labelcolor": SOFT,
        "axes.labelsize": 12,
    }
    buffer = io.StringIO()
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # widths of letters that the font lacks are estimated; the text is unchanged
        warnings.filterwarnings("ignore", "Glyph")
        fig = figure(width)
        for artist in fig.findobj():
            artist.set_clip_on(False)
        fig.savefig(buffer, format="svg", dpi=72, transparent=True)
        height = fig.get_figheight() * 72
    body = buffer.getvalue()
    body = body[body.index('<g id="figure_1">') :]
    body = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "", body)  # not allowed in XML
    body = re.sub(r'<g id="[^"]*"/>\s*', "", body)
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    body = re.sub(r'style="[^"]*"', lambda style: _styled(style[0]), body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}" role="img" '
        f'font-family="system-ui, sans-serif" aria-label="{escape(title)}">{body.strip()}'
    )


def _styled(style: str) -> str:
    style = re.sub(r" ?font-family: [^;\"]*;?", "", style)
    for color, name in _VARIABLES.items():
        style = style.replace(color, f"var(--{name}, {color})")
    return style


def canvas(width: int, height: int, left: float, right: float, top: float, bottom: float) -> tuple[Figure, Axes]:
    """Create a figure with axes that leave these margins, all in pixels."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width / 72, height / 72), dpi=72)
    plot_width, plot_height = (width - left - right) / width, (height - top - bottom) / height
    axes = fig.add_axes((left / width, bottom / height, plot_width, plot_height))
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelsize=12, labelcolor=SOFT, pad=6)
    axes.set_axisbelow(True)
    return fig, axes


def scale(axes: Axes, which: str, low: float, high: float, ticks: int, label: str = "") -> None:
    """Set round ticks that cover `low` to `high`, with grid lines if `which` is the axis of values."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    high = high if high > low and math.isfinite(high - low) else low + 1
    ticks_at = MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}lim": (ticks_at[0], ticks_at[-1])})
    axis.set_ticks(list(ticks_at))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}".replace("-", "\u2212")))
    axis.grid(True, color=LINE, linewidth=1)
    axis.set_label_text(label)


def log_scale(
    axes: Axes, which: str, low: float, high: float, times: Sequence[int] = (1,), zero: bool = False, every: int = 1
) -> None:
    """Set a logarithmic scale from `low` to `high`, with ticks at `times` every so many powers of ten. zero: its start is
    labelled 0."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1, every)
    ticks = [tick for power in powers for n in times if low <= (tick := float(f"{n}e{power}")) <= high]
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis.set_ticks(ticks, ["0" if zero and tick == ticks[0] else f"{tick:,.12g}" for tick in ticks])
    axis.set_ticks([], minor=True)
    axis.grid(True, color=LINE, linewidth=1)


def caption(axes: Axes, text: str, x: float = -0.01, y: float = 1.04, side: str = "right") -> None:
    """Write what the vertical scale measures above it."""
    axes.text(x, y, text, transform=axes.transAxes, ha=side, color=SOFT, fontsize=12)


def mark(axes: Axes, x: float, text: str) -> None:
    """Draw a dashed vertical line with its name above."""
    axes.axvline(x, color=SOFT, linestyle=(0, (3, 3)), linewidth=1)
    axes.annotate(text, (x, 1), (0, 5), xycoords=("data", "axes fraction"), textcoords="offset pixels", ha="center",
                  color=SOFT, fontsize=12)  # fmt: skip


def dot_plot(
    name: str, title: str, dots: Sequence[Dot], axis: str, limits: tuple[float, float] | None = None
) -> Plot | None:
    """Draw values with intervals, one below the other. On narrow screens names and values are above the dots.

    axis: title of the scale. limits: its ends; default: enclosing all intervals and zero.
    """
    if not dots:
        return None
    ends = [end for dot in dots for end in (*dot.interval, dot.value)]
    low, high = limits or (min(0.0, *ends), max(0.0, *ends))
    names = [" ".join(dot.label.split()) for dot in dots]

    def figure(width: int) -> Figure:
        narrow = width < WIDE
        labels = [label if len(label) <= (most := 50 if narrow else 70) else f"{label[: most - 1]}…" for label in names]
        row = 56 if narrow else 30
        left = 14.0 if narrow else min(max(map(len, labels)) * LETTER + 16, width - 376)
        right = 14.0 if narrow else min(max(len(dot.text) for dot in dots) * LETTER + 24, 240)
        height = row * len(dots) + 58
        fig, axes = canvas(width, height, left, right, 8, 50)
        scale(axes, "x", low, high, 4 if narrow else 6, axis)
        axes.set_ylim(len(dots), 0)
        axes.set_yticks([])
        if low < 0:
            axes.axvline(0, color=INK, linewidth=1.5)
        for i, (dot, label) in enumerate(zip(dots, labels, strict=True)):
            y, color, weight = i + (0.78 if narrow else 0.5), *((ACCENT, "bold") if dot.strong else (SOFT, "normal"))
            size = 2.4 if dot.strong else 1.6
            axes.plot(dot.interval, [y, y], color=color, linewidth=size, marker="|", markersize=8, markeredgewidth=size)
            axes.plot([dot.value], [y], "o", color=color, markersize=10 if dot.strong else 8)
            center = 1 - (8 + row * y) / height
            above = 15 / height if narrow else 0
            fig.text(0, center + 2 * above if narrow else center, label, va="center", weight=weight)
            fig.text(0 if narrow else 1 - (right - 16) / width, center + above, dot.text, va="center", weight=weight)
        return fig

    return draw(name, title, figure)


def learning_curve(history: Sequence[tuple[float | None, float | None, float | None]], best: int | None) -> Plot | None:
    """Draw training and validation loss over the steps; return None if neither has two points.

    history: step, training loss and validation loss of every logged step. best: the step whose checkpoint was kept.
    """
    series = {
        "training": [(step, loss) for step, loss, _ in history if step is not None and loss is not None],
        "validation": [(step, loss) for step, _, loss in history if step is not None and loss is not None],
    }
    points = [point for series_points in series.values() for point in series_points]
    if max(map(len, series.values())) < 2:
        return None
    least, most = min(loss for _, loss in points), max(loss for _, loss in points)
    logarithmic = 0 < least <= most / WIDE_RANGE

    def figure(width: int) -> Figure:
        fig, axes = canvas(width, 320, 48, 92, 28, 52)
        scale(axes, "x", 0, max(step for step, _ in points), 7 if width == WIDE else 4, "optimiser step")
        if logarithmic:
            powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
            ticks = [float(f"{n}e{power}") for power in powers for n in (1, 2, 5)]
            low, high = max(tick for tick in ticks if tick <= least), min(tick for tick in ticks if tick >= most)
            log_scale(axes, "y", low, high, (1, 2, 5))
            caption(axes, "loss (logarithmic)", -0.06, side="left")
        else:
            scale(axes, "y", 0, most, 5)
            caption(axes, "loss")
        axes.xaxis.grid(False)
        ends = {}
        for title, color, size in (("training", SOFT, 1.5), ("validation", ACCENT, 2.4)):
            if series[title]:
                marker = "o" if title == "validation" else ""
                axes.plot(*zip(*series[title], strict=True), color=color, linewidth=size, marker=marker, markersize=7)
                last = axes.transData.transform((0, series[title][-1][1]))
                ends[title] = float(axes.transAxes.inverted().transform(last)[1])
        if best is not None and any(step == best for step, _ in series["validation"]):
            mark(axes, best, "kept")
        if len(ends) == 2 and abs(gap := ends["training"] - ends["validation"]) < MIN_DISTANCE:
            apart = (MIN_DISTANCE - abs(gap)) / 2 * (1 if gap >= 0 else -1)
            ends = {"training": ends["training"] + apart, "validation": ends["validation"] - apart}
        for title, y in ends.items():
            color = ACCENT if title == "validation" else SOFT
            axes.annotate(title, (1, y), (10, 0), xycoords="axes fraction", textcoords="offset pixels", va="center",
                          color=color)  # fmt: skip
        return fig

    return draw("learning_curve", "Training and validation loss over the optimiser steps", figure)


def token_histogram(bins: Sequence[Bin], limit: int) -> Plot | None:
    """Draw a histogram of tokens per row, with a line at training.max_tokens if it is in range.

    bins: all of equal width except the last, which may hold the long tail.
    """
    if not bins:
        return None
    width_of = bins[0].last - bins[0].first + 1
    tail = len(bins) > 1 and bins[-1].last - bins[-1].first >= width_of
    at = (limit - bins[0].first + 1) / width_of

    def figure(width: int) -> Figure:
        fig, axes = canvas(width, 280, 60, 30, 28, 52)
        scale(axes, "y", 0, max(b.count for b in bins), 5)
        axes.bar([i + 0.5 for i in range(len(bins))], [b.count for b in bins], 0.92, color=ACCENT)
        every = max(1, -(-len(bins) // (12 if width == WIDE else 5)))
        ticks = [i for i in range(0, len(bins), every) if not tail or i <= len(bins) - 1 - every]
        names = [f"{bins[i].first:,}" for i in ticks]
        if tail:
            ticks, names = [*ticks, len(bins) - 1], [*names, f"{bins[-1].first:,} and more"]
        axes.set_xticks(ticks, names)
        axes.set_xlim(0, len(bins))
        axes.set_xlabel("tokens of a rendered row")
        caption(axes, "rows", y=1.05)
        if 0 <= at <= len(bins) - (1 if tail else 0):
            mark(axes, at, f"max_tokens {limit:,}")
        return fig

    return draw("tokens", "Rows by number of tokens", figure)


def signal_over_time(name: str, windows: Sequence[str], sizes: Mapping[int, tuple[float, bool, bool]]) -> Plot:
    """Draw the size of a drift signal over the windows.

    windows: the last day of each. sizes: by window number: size in points, whether it was tested, and whether it is an alarm.
    """

    def figure(width: int) -> Figure:
        fig, axes = canvas(width, 190, 60, 30, 26, 50)
        scale(axes, "y", 0, max([10, *(size for size, _, _ in sizes.values())]), 4)
        axes.plot(list(sizes), [size for size, _, _ in sizes.values()], color=ACCENT, linewidth=2)
        for window, (size, judged, alarm) in sizes.items():
            color = BAD if alarm else ACCENT
            axes.plot([window], [size], "o", color=color, markersize=8,
                      fillstyle="full" if judged else "none", markeredgewidth=1.5)  # fmt: skip
        every = max(1, -(-len(windows) // (8 if width == WIDE else 4)))
        axes.set_xticks(range(1, len(windows) + 1, every), windows[::every])
        axes.set_xlim(0.5, len(windows) + 0.5)
        axes.set_xlabel("last day of the window")
        caption(axes, "points", y=1.08)
        return fig

    return draw(name, f"{name}: size over time", figure)
