"""Plots of the data page, as inline SVG: token histogram and operating curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from finetune_pipeline.report.plots import WIDTH, _line, _svg, _text, _tick, nice_ticks

_LEFT, _RIGHT, _TOP, _BOTTOM = 56, WIDTH - 24, 26, 240


def token_histogram(bins: Sequence[Mapping[str, int]], limit: int) -> str:
    """Rows by number of tokens; a dashed line at the longest allowed length when it lies inside. Empty without bins.

    All bins have one width but the last, which takes the long tail and says so.
    """
    if not bins:
        return ""
    counts = nice_ticks(0, max(b["count"] for b in bins), 5)
    step = (_RIGHT - _LEFT) / len(bins)

    def y(count: float) -> float:
        return _BOTTOM - count / counts[-1] * (_BOTTOM - _TOP)

    parts = [_line(_LEFT, y(v), _RIGHT, y(v), "grid") for v in counts]
    parts += [_text(_LEFT - 8, y(v) + 4, f"{v:,.0f}", "tick", "end") for v in counts if v == int(v)]
    every = max(1, -(-len(bins) // 12))
    tail = len(bins) > 1 and bins[-1]["to"] - bins[-1]["from"] > bins[0]["to"] - bins[0]["from"]
    for i, b in enumerate(bins):
        x = _LEFT + i * step
        title = f"{b['from']:,} to {b['to']:,} tokens: {b['count']:,} rows"
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{y(b["count"]):.1f}" width="{max(1.0, step - 2):.1f}" '
            f'height="{_BOTTOM - y(b["count"]):.1f}" class="column"><title>{escape(title)}</title></rect>'
        )
        last = tail and i == len(bins) - 1
        if last or (i % every == 0 and not (tail and i > len(bins) - 1 - every)):
            parts.append(
                _text(
                    x,
                    _BOTTOM + 16,
                    f"{b['from']:,}{' and more' if last else ''}",
                    "tick",
                    "start" if not last else "middle",
                )
            )
    width = bins[0]["to"] - bins[0]["from"] + 1
    at = (limit - bins[0]["from"] + 1) / width
    if 0 <= at <= len(bins) - (1 if tail else 0):
        x = _LEFT + at * step
        parts += [
            _line(x, _TOP - 6, x, _BOTTOM, "mark"),
            _text(x, _TOP - 10, f"max_tokens {limit:,}", "tick", "middle"),
        ]
    parts.append(_text((_LEFT + _RIGHT) / 2, _BOTTOM + 36, "tokens of a rendered row", "tick", "middle"))
    parts.append(_text(_LEFT - 8, 14, "rows", "tick", "end"))
    return _svg(WIDTH, _BOTTOM + 44, "Rows by number of tokens", parts)


def operating_curve_plot(plan: Mapping[str, Any]) -> str:
    """Chance of acceptance against the true share of bad rows, with both quality levels marked."""
    curve = plan["curve"]
    rates = nice_ticks(0, 100 * max(point["rate"] for point in curve), 9)
    left, right = _LEFT, WIDTH - 190

    def x(rate: float) -> float:
        return left + 100 * rate / rates[-1] * (right - left)

    def y(chance: float) -> float:
        return _BOTTOM - chance * (_BOTTOM - _TOP)

    parts = []
    for chance in (0, 0.25, 0.5, 0.75, 1):
        parts += [
            _line(left, y(chance), right, y(chance), "grid"),
            _text(left - 8, y(chance) + 4, f"{chance:.0%}", "tick", "end"),
        ]
    parts += [_text(x(rate / 100), _BOTTOM + 16, _tick(rate), "tick", "middle") for rate in rates]
    for key, name in (("acceptable", "good enough"), ("intolerable", "intolerable")):
        parts += [
            _line(x(plan[key]), _TOP, x(plan[key]), _BOTTOM, "mark"),
            _text(x(plan[key]), _TOP - 8, name, "tick", "middle"),
        ]
    path = " ".join(f"{x(p['rate']):.1f},{y(p['accept']):.1f}" for p in curve)
    parts.append(f'<polyline points="{path}" class="curve valid"/>')
    for point in curve:
        title = f"{point['rate']:.1%} bad: accepted with {point['accept']:.1%}"
        parts.append(
            f'<circle cx="{x(point["rate"]):.1f}" cy="{y(point["accept"]):.1f}" r="3" class="point">'
            f"<title>{escape(title)}</title></circle>"
        )
    parts.append(_text((left + right) / 2, _BOTTOM + 34, "rows that are truly bad, %", "tick", "middle"))
    parts.append(_text(right + 14, _TOP + 4, "chance of acceptance", "label valid"))
    return _svg(WIDTH, _BOTTOM + 42, "Operating curve of the review", parts)
