"""Computes serving costs from the price list, and the volume from which a self-hosted model is cheaper.

The monthly cost of an API is tokens times price. An always-on machine costs its rent regardless of traffic. It is cheaper
from rent / (API price per call) calls per month on, if it can handle that many.
"""

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_pipeline.evaluation.costs import RequestPrice
from finetune_pipeline.evaluation.wording import percent
from finetune_pipeline.planning.prices import ApiPrice, Price, PriceList, newest_price

HOURS = 730.0
"""Hours per month (365 * 24 / 12)."""
UTILISATIONS = (0.05, 0.25, 1.0)
"""Utilisations of a machine for which token prices are shown."""
FORWARD_OPERATIONS, LOW_RANK_OPERATIONS, FULL_OPERATIONS = 2, 4, 6
"""Operations per parameter and token: a forward pass; training an adapter on a frozen base; training every weight (Kaplan
et al. 2020, arXiv:2001.08361, section 2.1). The list's speeds are for the second."""


@dataclass(frozen=True)
class Call:
    """Mean input and output tokens of a call."""

    prompt: float
    answer: float

    @property
    def tokens(self) -> float:
        return self.prompt + self.answer


@dataclass(frozen=True)
class PassedOn:
    """The share of calls that a kind of champion passes on at automation.max_error.

    Attributes:
        kind: `tuned`, `simple` or `prompt`.
        share: None where no error could be promised: then no pair has a price.
        source: Where it was measured, or that it is assumed.
    """

    kind: str
    share: float | None
    source: str


@dataclass(frozen=True)
class Traffic:
    """The expected traffic in production.

    Attributes:
        tuned: A call to the fine-tuned model, without examples.
        prompted: A call to an API model with the best prompt.
        prompt: The name of that prompt.
        calls: Calls per month; None if unknown.
        source: How the tokens were counted.
        passed_on: Measured shares of calls that champions pass on; of a kind without any, shares are assumed.
    """

    tuned: Call
    prompted: Call
    prompt: str
    calls: int | None
    source: str
    passed_on: Sequence[PassedOn] = ()


@dataclass(frozen=True)
class ApiCost:
    """Cost of calls to an API model. per_million: for the task's mix of input and output tokens. month: for the traffic. ended:
    no longer offered."""

    name: str
    tuned: bool
    call: Call
    per_call: float
    per_million: float
    month: float | None
    date: str
    warnings: list[str]
    note: str
    ended: bool = False


@dataclass(frozen=True)
class MachineCost:
    """The cost of an always-on rented machine that runs the task's model.

    Attributes:
        month: Monthly rent: lowest, listed, highest.
        calls: Calls per month it can answer, at its lowest and highest speed.
        per_million: Dollars per million tokens by utilisation, at the listed rent and the highest speed.
        utilisation: Share of its capacity that the traffic uses, at the highest speed; above 1, one machine is not enough.
    """

    name: str
    hour: float
    month: tuple[float, float, float]
    calls: tuple[float, float]
    per_million: dict[str, float]
    utilisation: float | None
    date: str
    warnings: list[str]
    note: str


@dataclass(frozen=True)
class BreakEven:
    """The calls (and million tokens) per month from which a machine is cheaper than an API, from low to high rent.
    utilisation: Of the machine at the listed rent's break-even, at its highest speed; above 1 it cannot reach it."""

    machine: str
    api: str
    calls: tuple[float, float, float]
    millions: tuple[float, float, float]
    utilisation: float


def call_price(price: ApiPrice, call: Call) -> float:
    """Return the price of one call in dollars, without caching."""
    return (call.prompt * price.input + call.answer * price.output) / 1e6


def api_cost(price: ApiPrice, traffic: Traffic, today: datetime.date) -> ApiCost:
    """Return the cost of an API; prompts of fine-tuned models have no examples, those of other models do."""
    call = traffic.tuned if price.tuned else traffic.prompted
    per_call = call_price(price, call)
    return ApiCost(
        name=price.name,
        tuned=price.tuned,
        call=call,
        per_call=per_call,
        per_million=per_call / call.tokens * 1e6,
        month=per_call * traffic.calls if traffic.calls else None,
        date=price.date.isoformat(),
        warnings=price.warnings(today),
        note=price.note,
        ended=price.until is not None and price.until < today,
    )


def capacity(machine: Price, call: Call) -> tuple[float, float]:
    """Return the calls per month a machine can answer, at its lowest and highest speed.

    It reads input at the arithmetic rate of the list's training speed (training takes LOW_RANK_OPERATIONS per parameter and
    token, reading FORWARD_OPERATIONS), and writes output at the listed speeds.
    """
    assert machine.tokens_per_second is not None and machine.answered_per_second is not None
    reading = call.prompt / (machine.tokens_per_second * LOW_RANK_OPERATIONS / FORWARD_OPERATIONS)
    low = machine.answered_low or machine.answered_per_second
    high = machine.answered_high or machine.answered_per_second
    fewest, most = (HOURS * 3600 / (reading + call.answer / speed) for speed in (low, high))
    return fewest, most


def call_on_machine(machine: Price, call: Call) -> float:
    """Return the price of one call in dollars on a machine that is always busy, at its highest speed."""
    return machine.price * HOURS / capacity(machine, call)[1]


def machine_cost(machine: Price, traffic: Traffic, today: datetime.date) -> MachineCost:
    """Return the cost and capacity of an always-on machine."""
    low, high = machine.between
    fewest, most = capacity(machine, traffic.tuned)
    fully_used = call_on_machine(machine, traffic.tuned) / traffic.tuned.tokens * 1e6
    return MachineCost(
        name=machine.engine,
        hour=machine.price,
        month=(low * HOURS, machine.price * HOURS, high * HOURS),
        calls=(fewest, most),
        per_million={f"{share:.0%}": fully_used / share for share in UTILISATIONS},
        utilisation=traffic.calls / most if traffic.calls else None,
        date=machine.date.isoformat(),
        warnings=machine.warnings(today),
        note=machine.note,
    )


def break_even(machine: Price, api: ApiPrice, traffic: Traffic) -> BreakEven:
    """Return the volume from which a machine with the fine-tuned model is cheaper than an API, in that model's tokens."""
    tuned = traffic.tuned
    low, high = machine.between
    per_call = call_price(api, tuned if api.tuned else traffic.prompted)
    calls = low * HOURS / per_call, machine.price * HOURS / per_call, high * HOURS / per_call
    least, listed, most = (n * tuned.tokens / 1e6 for n in calls)
    return BreakEven(
        machine=machine.engine,
        api=api.name,
        calls=calls,
        millions=(least, listed, most),
        utilisation=calls[1] / capacity(machine, tuned)[1],
    )


@dataclass(frozen=True)
class PairCost:
    """Dollars a month of a champion that passes on a share of the calls to an API model, and of either alone.

    Attributes:
        passed_on: That share; source: where it was measured.
        kind: Of the champion, see PassedOn.
        own: The champion's cost; it answers every call first.
        api_alone: All calls to the API model.
    """

    api: str
    passed_on: float
    source: str
    kind: str
    own: float
    api_alone: float

    @property
    def pair(self) -> float:
        """The champion's cost, and the share of the API's."""
        return self.own + self.passed_on * self.api_alone


ASSUMED = [
    PassedOn(kind, share, "assumed, until an evaluation has measured it")
    for kind in ("tuned", "simple")
    for share in (0.05, 0.2, 0.5)
]
"""What is priced of kinds of which nothing is measured."""


def pair_costs(prices: PriceList, traffic: Traffic, calls: int, model: str) -> list[PairCost]:
    """Return the cost of every pair of a champion and this API model with the best prompt; empty without a price of it."""
    price = newest_price((price for price in prices.apis if not price.tuned), model)
    month = month_by_kind(prices, calls, traffic.tuned, traffic.prompted)
    if price is None or not month:
        return []
    measured = {of.kind for of in traffic.passed_on}
    alone = call_price(price, traffic.prompted) * calls
    return [
        PairCost(price.name, of.share, of.source, of.kind, month[of.kind], alone)
        for of in (*traffic.passed_on, *(of for of in ASSUMED if of.kind not in measured))
        if of.share is not None
    ]


def month_by_kind(prices: PriceList, calls: int | None, tuned: Call, prompted: Call) -> dict[str, float]:
    """Return the dollars a month of serving a fine-tuned model, the same base with a prompt, and a simple model.

    A language model takes the cheapest machines of the list, always on, as many as it needs at their lowest speed; a simple model
    runs where the service runs that calls it. Empty without calls or a machine in the list.
    """
    if not calls or not prices.machines:
        return {}

    def rent(call: Call) -> float:
        return min(machine.price * HOURS * math.ceil(calls / capacity(machine, call)[0]) for machine in prices.machines)

    return {"tuned": rent(tuned), "prompt": rent(prompted), "simple": 0.0}


def in_use(utilisation: float) -> str:
    """Format a machine's utilisation, or that one machine is not enough."""
    return percent(utilisation) if utilisation <= 1 else f"{utilisation:,.1f} machines"


def request_prices(prices: PriceList, tuned: Call, prompted: Call, evaluated_model: str = "") -> list[RequestPrice]:
    """Return the price of 1,000 requests for every offer, with the fine-tuned model or another one with the best prompt.
    evaluated_model: the API model that was evaluated; empty if none."""
    evaluated = newest_price((price for price in prices.apis if not price.tuned), evaluated_model)
    offers = [
        RequestPrice(
            where=price.name,
            how="fine-tuned" if price.tuned else "with the best prompt",
            dollars=1000 * call_price(price, tuned if price.tuned else prompted),
            date=price.date.isoformat(),
            evaluated=price is evaluated,
        )
        for price in prices.apis
    ]
    for machine in prices.machines:
        fully_used = 1000 * call_on_machine(machine, tuned)
        for share in UTILISATIONS:
            how, date = f"fine-tuned, always on, {share:.0%} in use", machine.date.isoformat()
            offers.append(
                RequestPrice(where=machine.engine, how=how, dollars=fully_used / share, date=date, evaluated=False)
            )
    return sorted(offers, key=lambda offer: offer.dollars)


THUMB_MILLIONS, THUMB_DOLLARS = (5.0, 10.0), (1.0, 3.0)
"""The rule of thumb: from 5 to 10 million tokens per month, an always-on A10G is cheaper than GPT-4o mini, since a million
tokens cost 1 to 3 dollars on it."""
THUMB_MACHINE, THUMB_API = "rented A10G", "gpt-4o-mini"


def rule_of_thumb(prices: PriceList) -> list[str]:
    """State the rule of thumb, compute it from the price list with equal input and output tokens, and compare."""
    machine = next((m for m in prices.machines if m.engine.startswith(THUMB_MACHINE)), None)
    api = next((a for a in prices.apis if a.model == THUMB_API and a.input + a.output), None)
    if machine is None or api is None:
        missing = THUMB_MACHINE if machine is None else f"a price of {THUMB_API}"
        return [f"{missing} is not in {prices.path.name}, so the rule of thumb cannot be checked."]
    (low, high), (least, most) = machine.between, THUMB_MILLIONS
    per_million = call_price(api, Call(500_000, 500_000))
    even_low, even_high = low * HOURS / per_million, high * HOURS / per_million
    # tokens per second at which a million cost that much
    fast, slow = (machine.price / dollars * 1e6 / 3600 for dollars in THUMB_DOLLARS)
    return [
        f"Rule of thumb: from {least:g} to {most:g} million tokens per month on, an always-on {machine.engine} is "
        f"cheaper than {api.model}.",
        f"{api.model}: a million tokens, half input at ${api.input:.2f} and half output at ${api.output:.2f} per million, cost "
        f"${per_million:.3f}; {most:g} million tokens per month cost ${most * per_million:.2f}.",
        f"{machine.engine}: {HOURS:g} hours at ${low:.2f} to ${high:.2f} cost ${low * HOURS:,.0f} to ${high * HOURS:,.0f} per "
        "month, busy or idle.",
        f"Break-even: ${low * HOURS:,.0f} / ${per_million:.3f} = {even_low:,.0f} million tokens per month, up to "
        f"{even_high:,.0f} million: {even_low / most:,.0f} to {even_high / least:,.0f} times the rule of thumb.",
        f"Where it goes wrong: ${THUMB_DOLLARS[0]:g} to ${THUMB_DOLLARS[1]:g} per million tokens is true for a machine that "
        f"writes {slow:,.0f} to {fast:,.0f} tokens in every paid second (at ${machine.price:g} per hour); "
        f"{api.model} costs ${api.output:.2f} per million output tokens, and nothing for an idle hour.",
    ]
