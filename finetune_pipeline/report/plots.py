"""Plots as inline SVG, written by hand: no script, no library, colours from the page's style so that they follow its
light and dark scheme. All text is escaped here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from finetune_pipeline.evaluation.wording import RIGHT_OR_WRONG, cut, is_interval, is_number, metric_title

WIDTH, NARROW = 880, 440
"""Widths of a plot, in its own units: for a desk, and for a telephone."""
LABELS, VALUES, ROW, TOP, BOTTOM = 330, 190, 30, 12, 34
_LETTER, _BOLD = 6.9, 1.06
"""Mean width of a letter of a label at its size, amply, and how much wider a strong one is."""
_STACKED = 60
"""Height of a line in a narrow plot, where the names and values stand above the dots."""


@dataclass(frozen=True)
class Dot:
    """One line of a dot plot: label left, dot with interval, value written right. `strong`: the one to look at."""

    label: str
    value: float
    low: float
    high: float
    text: str
    strong: bool = False


def nice_ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, about `wanted` of them."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low, low + 1.0]
    raw = span / max(1, wanted - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw - 1e-12)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "\u2212")


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def _svg(width: int, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


_PLAIN = (
    "text{font:13px system-ui,sans-serif;fill:#1d2126}.tick{fill:#5b6470;font-size:12px}.strong{font-weight:650}"
    ".grid{stroke:#dcdfe3}.zero{stroke:#1d2126;stroke-width:1.5}.mark{stroke:#5b6470;stroke-dasharray:3 3}"
    ".whisker{stroke:#5b6470;stroke-width:1.6}.whisker.strong{stroke:#1f5fae;stroke-width:2.4}.dot,.point{fill:#5b6470}"
    ".dot.strong,.point{fill:#1f5fae}.curve{fill:none;stroke-width:1.5}.curve.train{stroke:#5b6470}"
    ".curve.valid{stroke:#1f5fae;stroke-width:2.4}"
)


def standalone(svg: str) -> str:
    """A plot as a file of its own, on white, for places without the page's style. Empty text stays empty."""
    if not svg:
        return ""
    style = f'<style>{_PLAIN}</style><rect width="100%" height="100%" fill="#fff"/>'
    head, rest = svg.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{rest}\n'


def dot_plot(
    dots: Sequence[Dot], title: str, axis: str, limits: tuple[float, float] | None = None, width: int = WIDTH
) -> str:
    """Values with intervals, one under the other; a line at zero when zero lies inside the scale.

    limits: ends of the scale; otherwise round numbers around all intervals and zero. width: below 600 names and values
    stand above the dots. Empty text without dots.
    """
    if not dots:
        return ""
    low, high = limits or (min(0.0, *(d.low for d in dots)), max(0.0, *(d.high for d in dots)))
    ticks = nice_ticks(low, high)
    stacked = width < 600
    longest = max(len(d.label) * (_BOLD if d.strong else 1) for d in dots)
    labels = min(max(LABELS, longest * _LETTER + 16), width - VALUES - 200)  # the scale keeps a width that can be read
    left, right = (12, width - 12) if stacked else (labels, width - VALUES)
    height = _STACKED if stacked else ROW
    bottom = TOP + height * len(dots)

    def x(value: float) -> float:
        return left + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (right - left)

    parts = []
    for tick in ticks:
        parts.append(_line(x(tick), TOP, x(tick), bottom, "zero" if tick == 0 and ticks[0] < 0 else "grid"))
        parts.append(_text(x(tick), bottom + 14, _tick(tick), "tick", "middle"))
    parts.append(_text((left + right) / 2, bottom + 29, axis, "tick", "middle"))
    for i, dot in enumerate(dots):
        y = TOP + height * (i + (0.8 if stacked else 0.5))
        kind = "strong" if dot.strong else "plain"
        parts.append(_text(0, y - 28 if stacked else y + 4, cut(dot.label, 60), f"label {kind}"))
        parts.append(_line(x(dot.low), y, x(dot.high), y, f"whisker {kind}"))
        parts += [_line(x(end), y - 4, x(end), y + 4, f"whisker {kind}") for end in (dot.low, dot.high)]
        parts.append(
            f'<circle cx="{x(dot.value):.1f}" cy="{y:.1f}" r="{5 if dot.strong else 4}" class="dot {kind}">'
            f"<title>{escape(f'{dot.label}: {dot.text}')}</title></circle>"
        )
        if stacked:
            parts.append(_text(0, y - 12, dot.text, f"label {kind}"))
        else:
            parts.append(_text(right + 16, y + 4, dot.text, f"label {kind}"))
    return _svg(width, bottom + BOTTOM, title, parts)


def models_plot(models: Mapping[str, Mapping[str, Any]], metric: str, width: int = WIDTH) -> str:
    """Scores of all models with their intervals, in percent; validation first, as in the tables."""
    dots = []
    for name, model in models.items():
        if is_number(model["value"]) and is_interval(model["value_interval"]):
            value, low, high = (100 * v for v in (model["value"], *model["value_interval"]))
            title = model["title"] + (", validation" if model["set"] == "validation" else "")
            dots.append(Dot(title, value, low, high, f"{value:.1f} ({low:.1f} to {high:.1f})", name == "candidate"))
    axis = "right answers, %" if metric in RIGHT_OR_WRONG else f"{metric_title(metric)}, points"
    return dot_plot(dots, "Scores of all models with intervals", axis, (0.0, 100.0), width)


def gains_plot(comparisons: Mapping[str, Any], names: Mapping[str, str], axis: str, width: int = WIDTH) -> str:
    """Gains of the candidate over the other models with their paired intervals."""
    dots = []
    for name, title in names.items():
        told = comparisons.get(name)
        if told and is_number(told["gain"]) and is_interval(told["interval"]):
            value, low, high = (100 * v for v in (told["gain"], *told["interval"]))
            text = f"{value:+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "\u2212")
            dots.append(Dot(f"over {title}", value, low, high, text, name == "baseline"))
    return dot_plot(dots, "Gains of the fine-tuned model with paired intervals", axis, width=width)


def learning_curve(history: Sequence[Mapping[str, Any]], best_step: int | None, width: int = WIDTH) -> str:
    """Training and validation loss against the optimiser step. Empty text without two points of either."""
    logged = [row for row in history if is_number(row.get("step"))]
    series = {
        key: [(float(row["step"]), float(row[key])) for row in logged if is_number(row.get(key))]
        for key in ("loss", "eval_loss")
    }
    points = [p for of in series.values() for p in of]
    if max(map(len, series.values())) < 2:
        return ""
    steps, losses = (
        nice_ticks(0.0, max(s for s, _ in points), 7 if width >= 600 else 4),
        nice_ticks(0.0, max(v for _, v in points)),
    )
    left, right, top, bottom = 44, width - (150 if width >= 600 else 84), 30, 290

    def x(step: float) -> float:
        return left + step / steps[-1] * (right - left)

    def y(loss: float) -> float:
        return bottom - (loss - losses[0]) / (losses[-1] - losses[0]) * (bottom - top)

    parts = [_line(left, y(v), right, y(v), "grid") for v in losses]
    parts += [_text(left - 8, y(v) + 4, _tick(v), "tick", "end") for v in losses]
    parts += [_text(x(s), bottom + 16, _tick(s), "tick", "middle") for s in steps]
    parts += [
        _text((left + right) / 2, bottom + 34, "optimiser step", "tick", "middle"),
        _text(left - 8, 14, "loss", "tick", "end"),
    ]
    if best_step is not None and any(s == best_step for s, _ in series["eval_loss"]):
        parts += [
            _line(x(best_step), top, x(best_step), bottom, "mark"),
            _text(x(best_step), top - 6, "kept", "tick", "middle"),
        ]
    parts += _curves(series, x, y, right)
    return _svg(width, bottom + 42, "Training and validation loss against the optimiser step", parts)


def _curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    x: Callable[[float], float],
    y: Callable[[float], float],
    right: float,
) -> list[str]:
    parts, ends = [], []
    for key, title, kind in (("loss", "training", "train"), ("eval_loss", "validation", "valid")):
        if series[key]:
            path = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in series[key])
            parts.append(f'<polyline points="{path}" class="curve {kind}"/>')
            ends.append((y(series[key][-1][1]), title, kind))
    for s, v in series["eval_loss"]:
        hover = f"<title>step {s:g}: {v:.3f}</title>"
        parts.append(f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" r="3.5" class="point">{hover}</circle>')
    ends.sort()
    if len(ends) == 2 and ends[1][0] - ends[0][0] < 16:  # keep the two names apart
        middle = (ends[0][0] + ends[1][0]) / 2
        ends = [(middle - 8, *ends[0][1:]), (middle + 8, *ends[1][1:])]
    return parts + [_text(right + 10, at + 4, title, f"label {kind}") for at, title, kind in ends]
