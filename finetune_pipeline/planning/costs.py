"""Computes a task's costs from the price list: training by trainer and method, serving, and the break-even volume."""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

from finetune_pipeline.planning.prices import PriceList, Range
from finetune_pipeline.planning.serving_costs import (
    FULL_OPERATIONS,
    LOW_RANK_OPERATIONS,
    ApiCost,
    BreakEven,
    MachineCost,
    PairCost,
    Traffic,
    api_cost,
    break_even,
    call_price,
    machine_cost,
    pair_costs,
    rule_of_thumb,
)
from finetune_pipeline.spec.methods import METHODS, methods_for
from finetune_pipeline.spec.methods.base import COMMON
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.training import TrainingSettings, TrainingSpec


@dataclass(frozen=True)
class TrainingCost:
    """The cost of a training with one trainer and some methods, in dollars from low to high."""

    where: str
    methods: str
    tokens: int
    low: float
    high: float
    hours: list[float] | None
    date: str
    warnings: list[str]
    note: str


@dataclass(frozen=True)
class Costs:
    """All costs of a task on one day. pairs: of a champion and the API model of baseline.endpoint, which answers what is passed on;
    empty without a promise. rule_of_thumb: the one about self-hosting, and our calculation, step by step. warnings: prices that are
    missing or must be confirmed."""

    task: str
    day: str
    prices: str
    traffic: Traffic
    training: list[TrainingCost]
    apis: list[ApiCost]
    machines: list[MachineCost]
    break_even: list[BreakEven]
    pairs: list[PairCost]
    rule_of_thumb: list[str]
    warnings: list[str]


def task_costs(
    spec: TaskSpec, prices: PriceList, traffic: Traffic, epoch_tokens: int, parameters: float, today: datetime.date
) -> Costs:
    """Compute all costs of a task; epoch_tokens: tokens of the training rows; parameters: of its model."""
    prices = prices.for_model(parameters)
    apis = [api_cost(price, traffic, today) for price in prices.apis]
    machines = [machine_cost(price, traffic, today) for price in prices.machines]
    # nothing is cheaper than an API that costs nothing, such as one's own
    paid_apis = [price for price in prices.apis if call_price(price, traffic.tuned)]
    offered_apis = [price for price in paid_apis if price.until is None or price.until >= today]
    break_evens = [
        row
        for machine in prices.machines
        for row in sorted((break_even(machine, price, traffic) for price in offered_apis), key=lambda row: row.calls[1])
    ]
    return Costs(
        task=spec.name,
        day=today.isoformat(),
        prices=prices.path.name,
        traffic=traffic,
        training=training_costs(spec, prices, epoch_tokens, parameters, today),
        apis=sorted(apis, key=lambda cost: (cost.ended, cost.per_call)),
        machines=machines,
        break_even=break_evens,
        pairs=_pairs(spec, prices, traffic),
        rule_of_thumb=rule_of_thumb(prices),
        warnings=_warnings(spec, prices, today),
    )


USUAL_CALLS = 100_000
"""Calls a month that are priced if the task's are unknown."""


def _pairs(spec: TaskSpec, prices: PriceList, traffic: Traffic) -> list[PairCost]:
    endpoint = spec.baseline.endpoint
    if spec.automation.max_error is None or endpoint is None:
        return []
    return pair_costs(prices, traffic, traffic.calls or USUAL_CALLS, endpoint.model)


def method_settings(spec: TaskSpec, method: str) -> TrainingSettings:
    """Return the task's settings with another method: values set in task.yaml stay, the method's defaults change."""
    if method == spec.training.method:
        return spec.training
    method_keys = {"method", *COMMON} - {"batch_size", "micro_batch_size"}
    if not METHODS[method].checkpointing:
        method_keys.add("gradient_checkpointing")
    settings = {k: v for k, v in spec.training.model_dump(exclude_unset=True).items() if k not in method_keys}
    return TrainingSpec.model_validate({**settings, "method": method})


def training_costs(
    spec: TaskSpec,
    prices: PriceList,
    epoch_tokens: int,
    parameters: float,
    today: datetime.date,
    methods: Iterable[str] | None = None,
) -> list[TrainingCost]:
    """Return the cost of a training for every line of the list, cheapest first; services use their own method.
    methods: None: all that can learn the task's output."""
    costs: list[TrainingCost] = []
    for price in prices.training:
        offers: list[tuple[str, int, Range, Range | None]] = []
        if price.unit == "hour" or price.price == 0:
            methods_by_work: dict[tuple[float, int], list[str]] = {}
            for name in methods_for(spec.output.kind) if methods is None else methods:
                method = METHODS[name]
                epochs = sum(phase.epochs for phase in method.phases(method_settings(spec, name)))
                operations = FULL_OPERATIONS if method.holds == "float32" else LOW_RANK_OPERATIONS
                methods_by_work.setdefault((epochs, operations), []).append(name)
            for (epochs, operations), names in methods_by_work.items():
                work = epoch_tokens * epochs * operations / LOW_RANK_OPERATIONS
                offers.append((", ".join(names), round(epoch_tokens * epochs), *price.of_training(work, parameters)))
        else:
            offers.append(("the service's own", *price.of_job(epoch_tokens, spec.training), None))
        for names_text, tokens, (low, high), hours in offers:
            costs.append(
                TrainingCost(
                    where=price.name,
                    methods=names_text,
                    tokens=tokens,
                    low=round(low, 4),
                    high=round(high, 4),
                    hours=list(hours) if hours else None,
                    date=price.date.isoformat(),
                    warnings=price.warnings(today),
                    note=price.note,
                )
            )
    return sorted(costs, key=lambda cost: (cost.high, cost.where))


def _warnings(spec: TaskSpec, prices: PriceList, today: datetime.date) -> list[str]:
    """Return warnings about prices that are missing or old."""
    warnings = [f"{p.name}: {w}" for p in [*prices.training, *prices.apis] for w in p.warnings(today)]
    priced_trainers = {price.engine.lower() for price in prices.training} | {"local"}
    if spec.training.trainer not in priced_trainers:
        warnings.append(f"{prices.path.name} has no price for the trainer {spec.training.trainer}")
    if not prices.machines:
        warnings.append(f"{prices.path.name} has no machine with answered_per_second, so self-hosting has no price")
    return warnings
