"""What the rungs of the ladder cost and how long their calls take: by the price list, and measured on this machine."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.baseline.ladder import OPTIMISED, Answered, Terms, fixed_prompts
from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.engine.store import read_json
from finetune_pipeline.evaluation.predictions import API
from finetune_pipeline.evaluation.prompts import DOCUMENTS, NEAREST
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.planning.costs import training_costs
from finetune_pipeline.planning.prices import PriceList, load_prices
from finetune_pipeline.planning.serving_costs import Call, call_price, seconds_of
from finetune_pipeline.planning.shape import model_shape
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.steps.baseline import passages_file
from finetune_pipeline.steps.data import split_file
from finetune_pipeline.steps.rungs import PROMPTS, validation_rows
from finetune_pipeline.worker.jobs import latency_job

LATENCY_CALLS = 12


def rung_terms(
    context: StepContext, answered: Sequence[Answered], model: Path | None, prompts: Mapping[str, Mapping[str, Any]]
) -> Terms:
    """Costs and latencies of the rungs.

    Args:
        model: Folder of the model that is timed; None times none.
        prompts: Its prompts by rung.
    """
    spec, train_rows = context.spec, read_examples(split_file(context, "train"))
    prices = load_prices(home=context.store.root.parent, task_folder=context.task.folder)
    details = context.inputs["few_shot_baseline"].facts["prompt_details"]
    plain = details.get("zero_shot") or next(iter(details.values()))
    tuned = Call(plain["mean_prompt_tokens"], max(1.0, plain["mean_new_tokens"]))
    parameters = float(model_shape(model_folder(context.inputs["base_model"].folder)).parameters)
    today = datetime.datetime.now(datetime.UTC).date()
    method = [spec.training.method]
    costs = training_costs(spec, prices, round(len(train_rows) * tuned.tokens), parameters, today, method)
    return Terms(
        dollars={of.name: _dollars(spec, prices, of) for of in answered},
        latency={**_simple_latencies(context, answered, train_rows), **_model_latencies(context, model, prompts)},
        training=min((cost.high for cost in costs if cost.high > 0), default=None),
        tuned=tuned,
        tuned_dollars=_own_dollars(spec, prices, tuned),
    )


def timed_prompts(context: StepContext) -> dict[str, Mapping[str, Any]]:
    """The base model's prompts by rung: the best fixed one, the one that retrieves, the one that was searched."""
    baseline, search = context.inputs["few_shot_baseline"], context.inputs["prompt_search"]
    prompts = {name: of for name, of in read_json(baseline.path(PROMPTS)).items() if not name.startswith(API)}
    best = max(fixed_prompts(prompts), key=lambda name: baseline.facts["prompts"][name]["primary"]["value"] or 0.0)
    asked = {"prompt": prompts[best]}
    for rung, end in (("retrieve", NEAREST), ("documents", DOCUMENTS)):
        if found := next((of for name, of in prompts.items() if name.endswith(end)), None):
            asked[rung] = found
    if search.facts["best"]:
        asked[OPTIMISED] = read_json(search.path(PROMPTS))[search.facts["best"]]
    return asked


def _dollars(spec: TaskSpec, prices: PriceList, answered: Answered) -> float | None:
    """Dollars of 1,000 calls of a rung."""
    if answered.call is None:
        return 0.0  # a linear model answers a thousand calls within a second of a CPU
    if answered.kind != "api":
        return _own_dollars(spec, prices, answered.call)
    asked = spec.baseline.endpoint.model if spec.baseline.endpoint else None
    price = next((p for p in prices.apis if p.model == asked and not p.tuned), None)
    return 1000 * call_price(price, answered.call) if price else None


def _own_dollars(spec: TaskSpec, prices: PriceList, call: Call) -> float | None:
    """Dollars of 1,000 calls on a machine of one's own: at the task's price of tokens, else on the cheapest rented machine
    of the list, always busy."""
    if spec.advise.dollars_per_million_tokens is not None:
        return call.tokens * spec.advise.dollars_per_million_tokens / 1000
    return min(
        (
            1000
            * machine.price
            * seconds_of(machine, call, machine.answered_high or machine.answered_per_second)
            / 3600
            for machine in prices.machines
            if machine.answered_per_second
        ),
        default=None,
    )


def _model_latencies(
    context: StepContext, model: Path | None, prompts: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[float, float]]:
    """(p50, p95) in milliseconds of one call under each prompt, measured in a child process. Answers restricted to the
    allowed forms are taken to last as long."""
    spec = context.spec
    if model is None:
        return {}
    folder = context.builder.work / "latency"
    folder.mkdir(parents=True, exist_ok=True)
    context.launch(
        latency_job(
            model=model,
            prompts=prompts,
            examples=split_file(context, "validation"),
            train=split_file(context, "train"),
            passages=passages_file(context),
            max_new_tokens=spec.answer_length,
            precision=spec.evaluation.precision,
            calls=LATENCY_CALLS,
            out=folder,
        )
    )
    measured = read_json(folder / "measured.json")["latency"]
    found = {rung: (float(of["p50"]), float(of["p95"])) for rung, of in measured.items()}
    return found | {f"{rung}_restricted": taken for rung, taken in found.items()}


def _simple_latencies(
    context: StepContext, answered: Sequence[Answered], train_rows: Sequence[Example]
) -> dict[str, tuple[float, float]]:
    """The same of the simple models, in this process."""
    texts = [e.user_text for e in validation_rows(context)[: LATENCY_CALLS + 1]]
    asked, answers = [e.user_text for e in train_rows], [e.answer for e in train_rows]
    found = {}
    for of in answered:
        if of.kind == "simple":
            model = SIMPLE_MODELS[of.name]().fit(asked, answers, context.spec.output, context.spec.split.seed)
            taken = sorted(_milliseconds(model.predict, [text]) for text in texts)
            found[of.name] = (taken[len(taken) // 2], taken[-1])
    return found


def _milliseconds(call: Callable[[Sequence[str]], Any], texts: Sequence[str]) -> float:
    began = time.perf_counter()
    call(texts)
    return round(1000 * (time.perf_counter() - began), 2)
