"""Builds the page of `finetune advise --measure`: answer, quality, cost and latency of each rung, what would change the answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from finetune_pipeline.baseline.decision import DECISIONS
from finetune_pipeline.baseline.ladder import Ladder, Rung
from finetune_pipeline.evaluation.metrics import METRICS, metric_title
from finetune_pipeline.evaluation.wording import (
    NOTHING,
    dollars,
    duration,
    number,
    percent,
    percent_range,
    points,
    points_range,
)
from finetune_pipeline.report.blocks import (
    Blocks,
    Format,
    Items,
    Page,
    Plot,
    Section,
    Table,
    Text,
    Verdict,
    figure,
    text,
)
from finetune_pipeline.report.plots import ACCENT, INK, SOFT, Dot, canvas, caption, dot_plot, draw, log_scale, scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SKIPPED = {"pilot": "Pilot"}


def ladder_page(task: str, description: str, ladder: Ladder) -> Page:
    status = {"fine_tune": "passed", "undecided": "warned"}.get(ladder.decision, "failed")
    answer, why = DECISIONS[ladder.decision], ladder.sentence.removeprefix(DECISIONS[ladder.decision]).strip()
    return Page(
        f"{task}: prompt, retrieve or fine-tune?",
        " ".join(description.split()),
        Verdict(status, answer, why, more=ladder.flips),
        [
            Section.of("rungs", "Every rung on the same rows", _rungs(ladder)),
            Section.of("cost", "Quality against cost", [cost_plot(ladder)]),
            Section.of("pilot", "Pilot: what training adds", _pilot(ladder)),
            Section.of("reasons", "Step by step", [Items(ladder.reasons)]),
            Section.of("skipped", "Not climbed", [Items([f"{SKIPPED[k]}: {v}." for k, v in ladder.skipped.items()])]),
        ],
        unfolded=3,
    )


def ladder_section(ladder: Ladder) -> Blocks:
    """Show the ladder as part of another page: the answer, the plot, and what would have changed the answer."""
    yield ladder.sentence
    yield quality_plot(ladder)
    yield "What would have changed this answer:" if ladder.flips else None
    yield Items(ladder.flips)


def _rungs(ladder: Ladder) -> Blocks:
    yield quality_plot(ladder)
    rows = [
        [
            *(place, rung.title, rung.value, rung.interval),
            f"{points(rung.gain)} ({points_range(rung.gain_interval)})" if rung.gain is not None else NOTHING,
            *(rung.dollars, rung.p50, rung.p95),
            rung.excluded or ("best" if rung.name == ladder.stands else ""),
        ]
        for place, rung in enumerate(ladder.rungs, 1)
    ]
    columns = [("#", figure), ("Rung", text), (metric_title(ladder.metric), percent), ("Interval", percent_range)]
    columns += [("Points over the best below", figure), ("$ per 1,000 calls", dollars)]
    columns += [("p50, ms", _milliseconds), ("p95, ms", _milliseconds), ("Note", text)]
    yield Table(columns, rows, strong=[i for i, rung in enumerate(ladder.rungs) if rung.name == ladder.stands])
    yield Text(
        f"{ladder.rows} validation rows, the same for every rung. What was chosen among several prompts was chosen on one half of "
        "them and scored on the other. Latency: one call at a time on this machine.",
        note=True,
    )


def _milliseconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def quality_plot(ladder: Ladder) -> Plot | None:
    """Plot the score of every rung with its interval, the pilot's trainings, and the extrapolation to all rows."""
    scored = [(rung.title, rung.value, rung.interval, rung.name == ladder.stands) for rung in ladder.rungs]
    scored += [(f"Trained on {percent(p.share)} of the rows", p.value, p.interval, False) for p in ladder.points]
    if ladder.expected is not None:
        scored.append(("Trained on all rows, extrapolated", ladder.expected.value, ladder.expected.interval, False))
    dots = [
        Dot(title, 100 * value, (100 * low, 100 * high), percent(value), stands)
        for title, value, interval, stands in scored
        for low, high in [interval or (value, value)]
    ]
    axis = f"{metric_title(ladder.metric)}, %"
    return dot_plot("ladder", "Score of every rung, with its interval", dots, axis, (0.0, 100.0))


def frontier(ladder: Ladder) -> list[Rung]:
    """Return the rungs that no rung of equal or lower cost matches, cheapest first."""
    rank, best = METRICS[ladder.metric].rank, list[Rung]()
    priced = [rung for rung in ladder.rungs if rung.dollars is not None]
    for rung in sorted(priced, key=lambda rung: (rung.dollars or 0.0, -rank(rung.value))):
        if not best or rank(rung.value) > rank(best[-1].value):
            best.append(rung)
    return best


def cost_plot(ladder: Ladder) -> Plot | None:
    """Plot quality over dollars per 1,000 calls, with intervals and the frontier; rungs by their number in the table. None if
    fewer than two rungs have a cost."""
    priced = [(place, rung) for place, rung in enumerate(ladder.rungs, 1) if rung.dollars is not None]
    paid = [rung.dollars for _, rung in priced if rung.dollars]
    if len(priced) < 2 or not paid:
        return None
    low, high = 10.0 ** math.floor(math.log10(min(paid) / 2)), 10.0 ** math.ceil(math.log10(max(paid) * 1.5))
    best_rungs = frontier(ladder)
    marks: dict[tuple[float, float], list[int]] = {}  # coinciding rungs share one mark
    for place, rung in priced:
        marks.setdefault((max(rung.dollars or low, low), round(100 * rung.value)), []).append(place)
    best_numbers = {ladder.rungs.index(rung) + 1 for rung in best_rungs}

    def figure_of(width: int) -> Figure:
        fig, axes = canvas(width, 380, 52, 46, 28, 56)
        scale(axes, "y", 0.0, 100.0, 5)
        log_scale(axes, "x", low, high, zero=True)
        axes.set_xlabel("dollars per 1,000 calls (logarithmic)")
        caption(axes, f"{metric_title(ladder.metric)}, %", -0.04, side="left")
        line = [(max(rung.dollars or low, low), 100 * rung.value) for rung in best_rungs]
        axes.step(*zip(*[*line, (high, line[-1][1])], strict=True), where="post", color=ACCENT, linewidth=1.6)
        for (x, y), numbers in marks.items():
            level = sum(other < x and height == y for other, height in marks) % 2  # neighbours' labels do not overlap
            color, interval = ACCENT if best_numbers & set(numbers) else SOFT, ladder.rungs[numbers[0] - 1].interval
            if interval:
                axes.plot([x, x], [100 * end for end in interval], color=color, linewidth=1.4)
            axes.plot([x], [y], "o", color=color, markersize=8)
            weight = "bold" if any(ladder.rungs[n - 1].name == ladder.stands for n in numbers) else "normal"
            label = ", ".join(map(str, numbers))
            axes.annotate(label, (x, y), (9, 4 + 14 * level), textcoords="offset pixels", color=INK, weight=weight)
        return fig

    title = "Quality over the cost of 1,000 calls; the line joins the rungs that nothing cheaper matches"
    return draw("ladder_cost", title, figure_of)


def _pilot(ladder: Ladder) -> Blocks:
    if not ladder.points:
        return
    rows = [[p.rows, p.share, p.steps, p.value, p.interval, p.seconds] for p in ladder.points]
    columns: list[tuple[str, Format]] = [("Rows", number), ("Share", percent), ("Steps", figure)]
    columns += [(metric_title(ladder.metric), percent), ("Interval", percent_range), ("Trained in", duration)]
    yield Table(columns, rows)
    if (expected := ladder.expected) is not None:
        yield Text(
            f"All rows should reach {percent(expected.value)} ({percent_range(expected.interval)}): {points(expected.gain)} points "
            f"over the best simpler rung ({points_range(expected.gain_interval)})."
        )


def ladder_lines(task: str, ladder: Ladder) -> list[str]:
    lines = [f"{task}: {ladder.sentence}", ""]
    width = max(len(rung.title) for rung in ladder.rungs)
    for rung in ladder.rungs:
        mark = "→" if rung.name == ladder.stands else " "
        speed = f"{_milliseconds(rung.p50)} ms" if rung.p50 is not None else NOTHING
        lines.append(
            f"{mark} {rung.title:{width}}  {percent(rung.value):>6}  {dollars(rung.dollars):>10} per 1,000 calls  {speed:>10}"
        )
    lines += [f"  Trained on {point.rows:,} rows: {percent(point.value)}" for point in ladder.points]
    if (expected := ladder.expected) is not None:
        lines.append(f"  All rows, extrapolated: {percent(expected.value)} ({percent_range(expected.interval)})")
    lines += [f"  {SKIPPED[name]} left out: {why}" for name, why in ladder.skipped.items()]
    if ladder.flips:
        lines += ["", "What would change the answer:", *(f"  - {flip}" for flip in ladder.flips)]
    return lines
