"""What a hosted job may cost, from the dated list of prices, and whether ``training.budget_usd`` allows it."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

from finetune_pipeline.findings import Finding
from finetune_pipeline.planning.prices import load_prices
from finetune_pipeline.trainers.service import Estimate, Service

_PLACE = "task.yaml: training.budget_usd"


def listed_price(engine: str, service: Service, tokens: int, home: Path, task_folder: Path | None) -> Estimate:
    """What a job costs by the nearest prices.yaml; unknown where it has no present price of the model.

    Args:
        engine: Name of the service in the list.
        tokens: Of the training rows, once.
        home, task_folder: Where a list of the user's own may be.
    """
    today = datetime.datetime.now(datetime.UTC).date()
    why = f"prices.yaml has no price of {engine} for {service.model}"
    for price in load_prices(home=home, task_folder=task_folder).training:
        named = re.fullmatch(rf"{re.escape(price.model)}(-\d{{4}}-\d\d-\d\d)?", service.model)
        if price.engine != engine or price.unit != "million_tokens" or not named:
            continue
        if price.until is not None and price.until < today:
            why = f"the price of {engine} for {service.model} in prices.yaml was valid until {price.until}"
            continue
        dollars = price.between[1] * tokens * service.epochs / 1e6
        reckoned = (
            f"about {tokens:,} tokens × {service.epochs} epochs × ${price.between[1]:g} a million = ${dollars:,.4g}"
        )
        return Estimate(dollars, f"{reckoned} (prices.yaml, {price.date})")
    return Estimate(None, why)


def budget_findings(budget: float | None, estimate: Estimate, home: Path) -> list[Finding]:
    """Whether a budget speaks against a job: its estimate is higher, or nobody knows it."""
    if budget is None:
        return []
    if estimate.dollars is None:
        message = f"what the job costs is not known: {estimate.source}"
        fix = f"copy the shipped prices.yaml to {home} and add the price, or remove training.budget_usd"
        return [Finding("hosted.price_unknown", "error", _PLACE, message, fix)]
    if estimate.dollars > budget:
        message = f"the job is estimated at ${estimate.dollars:,.4g}, over ${budget:,.4g}: {estimate.source}"
        fix = "raise training.budget_usd, lower training.epochs, or choose a smaller model"
        return [Finding("hosted.budget", "error", _PLACE, message, fix)]
    return []


def no_budget_findings(budget: float | None) -> list[Finding]:
    """A warning where nothing limits what a job costs."""
    if budget is not None:
        return []
    message = "there is no budget: the job is bought whatever it costs"
    return [Finding("hosted.no_budget", "warning", _PLACE, message, "set training.budget_usd")]
