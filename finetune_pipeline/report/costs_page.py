"""Builds the page of `finetune plan --costs`: training by trainer and method, serving, and the break-even volume."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from finetune_pipeline.evaluation.wording import (
    NOTHING,
    counted,
    dollars,
    dollars_range,
    duration,
    number,
    percent,
    prompt_name,
)
from finetune_pipeline.planning.costs import USUAL_CALLS, Costs, TrainingCost
from finetune_pipeline.planning.serving_costs import HOURS, ApiCost, MachineCost, in_use
from finetune_pipeline.report.blocks import Blocks, Items, Page, Plot, Section, Table, Text, figure, text
from finetune_pipeline.report.plots import ACCENT, INK, LETTER, SOFT, WIDE, canvas, caption, draw, log_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_APIS = 5
"""Maximum lines of the plot; the table has all of them."""


def costs_page(costs: Costs) -> Page:
    return Page(
        f"{costs.task}: what it costs",
        f"In US dollars from {costs.prices}, computed on {costs.day}. {traffic_sentence(costs)}",
        None,
        [
            Section.of("answer", "What to do", list(answer_lines(costs))),
            Section.of("pair", "Sure, or passed on: a pair of models", list(pair_lines(costs))),
            Section.of("break-even", "Machine or API", _break_even(costs)),
            Section.of("thumb", "A rule of thumb, checked", [Items(costs.rule_of_thumb)]),
            Section.of("machines", "Every machine against every API", [break_even_table(costs)]),
            Section.of("serving", "Serving", _serving(costs)),
            Section.of("training", "Training", _training(costs)),
            Section.of("warnings", "Prices to confirm", [Items(costs.warnings)]),
        ],
        unfolded=4 if costs.pairs else 3,
    )


def answer_lines(costs: Costs) -> Iterator[str]:
    """Say what the traffic costs a month by the cheapest API and on the cheapest machine, and which is cheaper.

    Without known traffic, for USUAL_CALLS. A machine is counted as often as it is needed at its lowest speed."""
    calls = costs.traffic.calls or USUAL_CALLS
    rents = [
        (machine.month[1] * max(1, math.ceil(calls / machine.calls[0])), f"on a {machine.name}, always on")
        for machine in costs.machines
        if machine.calls[0]
    ]
    bills = [
        (api.per_call * calls, f"by {api.name}{'' if api.tuned else ' with its best prompt'}")
        for api in costs.apis
        if not api.ended
    ]
    cheapest = sorted(min(offers) for offers in (rents, bills) if offers)
    if not cheapest:
        yield "The price list has neither an API nor a machine to serve the model."
        return
    amounts = " or ".join(f"{dollars(amount)} {how}" for amount, how in cheapest)
    yield f"For {counted(calls, 'call')} a month: {amounts}."
    if len(cheapest) == 2:
        yield (
            f"The cheaper one is {cheapest[0][1]}. An API model with a prompt is another model: how right it is, only the "
            "evaluation says (`baseline.endpoint`)."
        )
    yield (
        "A machine of your own, and a CPU that is on anyway, are in no list: `finetune serve` runs there, and the ladder "
        "(`finetune advise --measure`) times an answer."
    )


_OWN = {
    "tuned": "The fine-tuned model on the cheapest machine",
    "prompt": "The base model with its prompt on the cheapest machine",
    "simple": "A simple model where your service runs",
}


def pair_lines(costs: Costs) -> Iterator[str]:
    """Say what each champion and the API model that answers what is passed on cost a month together, against either alone."""
    calls = costs.traffic.calls or USUAL_CALLS
    for first in costs.pairs[:1]:
        yield (
            f"{first.api} alone, with its best prompt: {dollars(first.api_alone)} for {counted(calls, 'call')} a month. A call "
            "that is passed on costs both models."
        )
    for pair in costs.pairs:
        amounts = {"the pair": pair.pair, "the API alone": pair.api_alone}
        cheaper = min(amounts, key=lambda name: amounts[name])
        yield (
            f"{_OWN[pair.kind]} answers {percent(1 - pair.passed_on)}, {pair.api} {percent(pair.passed_on)} ({pair.source}): "
            f"{dollars(pair.pair)} a month ({dollars(pair.own)} here, {dollars(pair.pair - pair.own)} there); {cheaper} costs "
            f"less. Alone it costs {dollars(pair.own)}, and its mistakes."
        )
    for of in costs.traffic.passed_on:
        if of.share is None:
            yield f"{_OWN[of.kind]}: no error could be promised ({of.source}), so that there is no pair to price."


def traffic_sentence(costs: Costs) -> str:
    traffic, tuned = costs.traffic, costs.traffic.tuned
    calls = (
        f"{number(traffic.calls)} calls a month."
        if traffic.calls
        else "The calls per month are unknown: set advise.calls_per_month or pass --calls-per-month."
    )
    return (
        f"A call of the fine-tuned model reads {tuned.prompt:,.0f} tokens and writes {tuned.answer:,.0f}; one of an API model "
        f"with the prompt {prompt_name(traffic.prompt)} reads {traffic.prompted.prompt:,.0f} ({traffic.source}). {calls}"
    )


def millions(value: float) -> str:
    """Format millions of tokens with three significant figures."""
    return f"{float(f'{value:.3g}'):,.12g}"


def _break_even(costs: Costs) -> Blocks:
    yield (
        f"A machine that is on all month ({HOURS:g} hours) costs the same whether busy or idle; an API charges for "
        "each call. Below the break-even volume the API is cheaper. More than one machine in use means that one cannot answer so "
        "many calls. Tokens are those of the fine-tuned model's calls."
    )
    yield break_even_plot(costs)


def break_even_table(costs: Costs) -> Table:
    """Return a table of the monthly calls and tokens above which each machine is cheaper than each API still offered."""
    figures = ("From million tokens a month", "From calls a month", "It is then in use")
    rows = []
    for point in costs.break_even:
        low, listed, high = map(millions, point.millions)
        calls, used = f"{point.calls[1]:,.0f}", in_use(point.utilisation)
        rows.append([point.machine, point.api, f"{listed} ({low} to {high})", calls, used])
    return Table([("Machine, always on", text), ("Cheaper than", text), *((f, figure) for f in figures)], rows)


def _serving(costs: Costs) -> Blocks:
    dated = (("As of", text), ("Note", text))
    figures = [(title, figure) for title in ("Tokens a call reads", "1,000 calls", "A million tokens", "A month")]
    yield Table([("API", text), *figures, *dated], [_api_row(api) for api in costs.apis], style="figures notes")
    shares = list(costs.machines[0].per_million) if costs.machines else []
    yield Table(
        [
            ("Machine, always on", text),
            ("A month", figure),
            *((f"A million tokens, {share} in use", figure) for share in shares),
            ("Calls a month it can answer", figure),
            ("Your traffic takes", figure),
            *dated,
        ],
        [_machine_row(machine) for machine in costs.machines],
        style="figures notes",
    )
    yield Text(
        "API prices assume no caching. Machines read input at twice their training speed and write output at the listed "
        "speed, both for the listed model size; a smaller model is faster. Measure yours and add it to the list.",
        note=True,
    )


def _api_row(api: ApiCost) -> list[str]:
    reads, note = f"{api.call.prompt:,.0f}", "; ".join([*api.warnings, api.note])
    return [api.name, reads, *map(dollars, (api.per_call * 1000, api.per_million, api.month)), api.date, note]


def _machine_row(machine: MachineCost) -> list[str]:
    low, listed, high = map(dollars, machine.month)
    slow, fast = (f"{n:,.0f}" for n in machine.calls)
    return [
        machine.name,
        f"{listed} ({low} to {high})",
        *map(dollars, machine.per_million.values()),
        f"{slow} to {fast}",
        NOTHING if machine.utilisation is None else in_use(machine.utilisation),
        machine.date,
        "; ".join([*machine.warnings, machine.note]),
    ]


def _training(costs: Costs) -> Blocks:
    rows = [
        [
            cost.where,
            cost.methods,
            number(cost.tokens),
            dollars_range(cost.low, cost.high),
            " to ".join(dict.fromkeys(duration(3600 * h) for h in cost.hours)) if cost.hours else NOTHING,
            cost.date,
            "; ".join([*cost.warnings, cost.note]),
        ]
        for cost in costs.training
    ]
    columns = [("Where", text), ("Methods", text), ("Tokens", figure), ("Dollars", figure), ("Time", figure)]
    yield Table([*columns, ("As of", text), ("Note", text)], rows, style="figures notes")


def break_even_plot(costs: Costs) -> Plot | None:
    """Plot the monthly bill over the monthly tokens, on logarithmic scales. A machine's line is flat up to its capacity."""
    machine = next((machine for machine in costs.machines if machine.month[1]), None)  # the scale has no 0
    break_evens = [point for point in costs.break_even if machine and point.machine == machine.name]
    if machine is None or not break_evens:
        return None
    served = costs.traffic.tuned.tokens
    # a few of the lines, from the most expensive API to the cheapest
    chosen = break_evens
    if len(break_evens) > SHOWN_APIS:
        chosen = [break_evens[round(i * (len(break_evens) - 1) / (SHOWN_APIS - 1))] for i in range(SHOWN_APIS)]
    by_name = {api.name: api for api in costs.apis}
    most = max(*(point.millions[2] for point in chosen), machine.calls[1] * served / 1e6)
    least, low, high = min(10.0, machine.month[1] / 100), 0.1, 10 ** math.ceil(math.log10(most * 2))
    edges = [low * (high / low) ** (i / 200) for i in range(201)]

    def figure_of(width: int) -> Figure:
        narrow = width < WIDE
        names = {point.api: _curve_name(point.api, narrow) for point in chosen}
        fig, axes = canvas(width, 420, 66, 16 + LETTER * max(map(len, names.values())), 28, 52)
        tops = []
        for point in chosen:
            # lines are not clipped at the axes, so each begins where it enters the plot
            per_million = by_name[point.api].per_call / served * 1e6
            axes.plot([max(low, least / per_million), high], [max(low * per_million, least), high * per_million],
                      color=SOFT, linewidth=1.6)  # fmt: skip
            tops.append((high * per_million, point.api))
            axes.plot([point.millions[1]], [machine.month[1]], "o", color=INK, markersize=6)
        calls_of_one = machine.calls[1] * served / 1e6
        rent = [machine.month[1] * max(1, math.ceil(million / calls_of_one)) for million in edges]
        axes.plot(edges, rent, color=ACCENT, linewidth=2.6)
        if costs.traffic.calls and low <= (yours := costs.traffic.calls * served / 1e6) <= high:
            axes.axvline(yours, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate("yours", (yours, least), (5, 6), textcoords="offset pixels", color=INK, fontsize=12)
        log_scale(axes, "x", low, high, every=2)
        log_scale(axes, "y", least, max(top for top, _ in tops))
        axes.set_xlabel("million tokens a month")
        caption(axes, "dollars a month", y=1.03, side="left")
        rent_begins = (low, machine.month[1])
        name = machine.name.partition(",")[0] if narrow else machine.name
        axes.annotate(name, rent_begins, (6, 6), textcoords="offset pixels", color=ACCENT, weight="bold")
        y = -math.inf
        for top, name in sorted(tops):
            y = max(math.log10(top), y + 0.22)  # names do not overlap
            axes.annotate(names[name], (high, 10**y), (8, 0), textcoords="offset pixels", va="center", color=SOFT,
                          fontsize=12)  # fmt: skip
        return fig

    title = f"Dollars a month over million tokens a month: APIs, and a {machine.name} that is always on"
    return draw("break_even", title, figure_of)


def _curve_name(api: str, narrow: bool) -> str:
    """Return the name beside a curve: on a phone the model alone, and its beginning if it is long."""
    name = (api.partition(", ")[2] or api) if narrow else api
    most = 20 if narrow else 50
    return name if len(name) <= most else f"{name[: most - 1]}…"


def costs_lines(costs: Costs) -> list[str]:

    def flag(cost: TrainingCost | ApiCost) -> str:
        return f" [{'; '.join(cost.warnings)}]" if cost.warnings else ""

    lines = [*answer_lines(costs), *pair_lines(costs), "", traffic_sentence(costs), "", "training, dollars"]
    for cost in costs.training:
        paid = f"{dollars_range(cost.low, cost.high):24} {cost.where} ({cost.methods}), {number(cost.tokens)} tokens"
        lines.append(f"  {paid}, as of {cost.date}{flag(cost)}")
    lines += ["", f"serving by an API, {'a month' if costs.traffic.calls else '1,000 calls'}"]
    for api in costs.apis:
        amount = api.month if api.month is not None else api.per_call * 1000
        lines.append(f"  {dollars(amount):>14} {api.name}, {dollars(api.per_million)} a million tokens{flag(api)}")
    lines += ["", "serving on a machine that is always on, a month"]
    for machine in costs.machines:
        shares = ", ".join(f"{dollars(price)} at {share}" for share, price in machine.per_million.items())
        used = "" if machine.utilisation is None else f"; your traffic: {in_use(machine.utilisation)}"
        rent = f"{dollars(machine.month[1]):>14} {machine.name}"
        lines.append(f"  {rent}; a million tokens {shares} of its time in use{used}")
    lines += ["", "break-even, from so many million tokens a month on the machine is cheaper"]
    for even in costs.break_even:
        span = f"{millions(even.millions[0])} to {millions(even.millions[2])}"
        lines.append(f"  {span:>24} {even.machine} against {even.api} ({in_use(even.utilisation)} in use)")
    lines += ["", *costs.rule_of_thumb]
    if costs.warnings:
        lines += ["", f"{counted(len(costs.warnings), 'price')} to confirm:", *(f"  {line}" for line in costs.warnings)]
    return lines
