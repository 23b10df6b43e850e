"""Checks that hosted trainers share: settings of the spec, and the estimated cost of a job against the budget."""

from __future__ import annotations

import datetime
import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_pipeline.findings import Finding
from finetune_pipeline.planning.prices import load_prices, newest_price
from finetune_pipeline.planning.tokens import epochs_of, whole_epochs
from finetune_pipeline.spec.baseline import address_problem, is_local
from finetune_pipeline.spec.methods.low_rank import LoraSpec, LowRank
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.training import TrainingSettings
from finetune_pipeline.trainers.service import Estimate, Service

if TYPE_CHECKING:
    from finetune_pipeline.trainers.hosted import HostedTrainer

_BUDGET = "task.yaml: training.budget_usd"


def common_problems(trainer: HostedTrainer, spec: TaskSpec) -> list[Finding]:
    """Return findings about the settings that hosted trainers share, without any request."""
    section, key = trainer.section(spec), trainer.key_name(spec)
    findings = []
    if trainer.extra and importlib.util.find_spec(trainer.extra) is None:
        message = f"the package {trainer.extra} is not installed"
        fix = f"pip install 'finetune-pipeline[{trainer.extra}]'"
        findings.append(trainer.finding("extra", "training.trainer", message, fix))
    if section.model is None and trainer.usual_model(spec) is None:
        message = f"base_model {spec.base_model!r} is not a name the service knows"
        fix = "write the name the service uses for the base model"
        findings.append(trainer.finding("model", "model", message, fix))
    if section.base_url and (problem := address_problem(section.base_url)):
        findings.append(trainer.finding("address", "base_url", *problem))
    if spec.advise.private and not (section.base_url and is_local(section.base_url)):
        message = "advise.private says that texts must not leave this machine, and this trainer uploads them"
        fix = "set training.trainer: local, or remove advise.private"
        findings.append(trainer.finding("private", "training.trainer", message, fix))
    fix = f"export {key}=…, or name another variable in training.{trainer.name}.api_key_env"
    if not (value := os.environ.get(key)):
        findings.append(trainer.finding("key", "api_key_env", f"the environment variable {key} is not set", fix))
    elif not re.fullmatch("[!-~]+", value):
        message = f"the environment variable {key} has a space, a line break or another character that no key has"
        findings.append(trainer.finding("key", "api_key_env", message, fix))
    epochs = epochs_of(spec.training)
    if epochs != whole_epochs(spec.training):
        message = f"services train only whole epochs: {epochs:g} becomes {whole_epochs(spec.training)}"
        findings.append(trainer.finding("epochs", "training.epochs", message, "nothing to do", "note"))
    if spec.training.over_length != "fail":
        message = "services get every row: training.over_length is not applied; each service truncates at its own limit"
        fix = "nothing to do if no row is longer than training.max_tokens"
        findings.append(trainer.finding("over_length", "training.over_length", message, fix, "warning"))
    if spec.training.budget_usd is None:
        message = "there is no budget: the job is bought at any price"
        findings.append(Finding("hosted.no_budget", "warning", _BUDGET, message, "set training.budget_usd"))
    return findings


def low_rank_problems(trainer: HostedTrainer, spec: TaskSpec, chooses_layers: bool) -> list[Finding]:
    """Return findings about settings of ``training.lora`` that a service does not support. chooses_layers: whether the service
    lets users choose the adapted layers."""
    lora = low_rank(spec.training)
    options = {"dora": lora.dora, "rslora": lora.rslora}
    options["target_modules"] = not chooses_layers and not isinstance(lora.target_modules, str)
    message, fix = "the service trains only plain LoRA", "remove it, or set training.trainer: local"
    return [trainer.finding("low_rank", f"training.lora.{key}", message, fix) for key, used in options.items() if used]


def low_rank(training: TrainingSettings) -> LoraSpec:
    """Return the section of the low-rank methods."""
    section: LoraSpec = getattr(training, LowRank.section)
    return section


def listed_price(service: Service, tokens: int, home: Path, task_folder: Path | None) -> Estimate:
    """Estimate the cost of a job from the nearest prices.yaml; unknown without a current price. tokens: of one epoch."""
    today, what = datetime.datetime.now(datetime.UTC).date(), f"{service.label} for {service.model}"
    listed = load_prices(home=home, task_folder=task_folder).training
    ours = [price for price in listed if price.engine == service.label and price.unit == "million_tokens"]
    price = newest_price([price for price in ours if price.until is None or price.until >= today], service.model)
    if price is None:
        if ended := newest_price(ours, service.model):
            return Estimate(None, f"the price of {what} in prices.yaml was valid until {ended.until}")
        return Estimate(None, f"prices.yaml has no price of {what}")
    _, (_, dollars) = price.of_job(tokens, service.training)
    rate = f"{service.epochs} epochs × ${price.between[1]:g} a million = ${dollars:,.4g}"
    return Estimate(dollars, f"about {tokens:,} tokens × {rate} (prices.yaml, {price.date})")


def budget_findings(budget: float | None, job: Estimate, hosting: Estimate, spent: float, home: Path) -> list[Finding]:
    """Return a finding if an order exceeds the budget, or its cost is unknown. hosting: of the dedicated endpoint that evaluates
    the model; spent: dollars on earlier attempts at the same order."""
    if budget is None:
        return []
    if job.dollars is None:
        message = f"the cost of the job is unknown: {job.source}"
        fix = f"copy the shipped prices.yaml to {home} and add the price, or remove training.budget_usd"
        return [Finding("hosted.price_unknown", "error", _BUDGET, message, fix)]
    if hosting.dollars is None:
        return [
            Finding("hosted.price_unknown", "error", _BUDGET, hosting.source, "set it, or remove training.budget_usd")
        ]
    total = job.dollars + hosting.dollars + spent
    if total > budget:
        parts = [f"the job is estimated at ${job.dollars:,.4g}"]
        parts += [f"its endpoint at ${hosting.dollars:,.4g} ({hosting.source})"] if hosting.dollars else []
        parts += [f"earlier attempts cost ${spent:,.4g}"] if spent else []
        sum_text = f" (${total:,.4g} together)" if len(parts) > 1 else ""
        message = f"{', '.join(parts)}{sum_text}, over ${budget:,.4g}: {job.source}"
        fix = "raise training.budget_usd, lower training.epochs, or choose a smaller model"
        return [Finding("hosted.budget", "error", _BUDGET, message, fix)]
    return []
