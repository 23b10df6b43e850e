"""BASELINE, for `finetune ladder`: all rungs together, with costs and latencies, and the answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune_pipeline.baseline.input_evidence import learnable
from finetune_pipeline.baseline.ladder import OPTIMISED, Answered, Ladder, Terms
from finetune_pipeline.baseline.ladder_answer import ladder
from finetune_pipeline.baseline.learnable import prompted_evidence
from finetune_pipeline.baseline.pilot import Extrapolation, Point
from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.engine.store import read_json
from finetune_pipeline.evaluation.predictions import read_predictions
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.planning.prices import PriceList, estimate_prices, load_prices
from finetune_pipeline.planning.serving_costs import Call, call_price, seconds_of
from finetune_pipeline.planning.shape import model_shape
from finetune_pipeline.planning.tokens import epochs_of
from finetune_pipeline.report.ladder_page import ladder_page
from finetune_pipeline.report.page import page_html, page_markdown
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.steps.baseline import by_model
from finetune_pipeline.steps.data import split_file
from finetune_pipeline.steps.rungs import PREDICTIONS, PROMPTS, climbed, validation_rows
from finetune_pipeline.worker.jobs import latency_job

LATENCY_CALLS = 12


def make_ladder(context: StepContext) -> dict[str, Any]:
    """Put all rungs together: scores, costs, latencies, the answer and what would change it."""
    spec, inputs = context.spec, context.inputs
    answered, pilot = climbed(context), inputs["pilot"]
    baseline, search = inputs["few_shot_baseline"], inputs["prompt_search"]
    rows = by_model(read_predictions(baseline.path(PREDICTIONS)))
    train_rows = read_examples(split_file(context, "train"))
    signal = learnable(spec, train_rows, prompted=prompted_evidence(spec, baseline.facts["best"], rows))
    made = ladder(
        spec,
        answered,
        "no_signal" if signal.status == "not_shown" else "",
        _terms(context, answered, train_rows),
        measured=[Point.model_validate(point) for point in pilot.facts["points"]],
        pilot_rows={float(share): of for share, of in by_model(read_predictions(pilot.path(PREDICTIONS))).items()},
        skipped={
            name: why
            for name, why in (("prompt_search", search.facts["skipped"]), ("pilot", pilot.facts["skipped"]))
            if why
        },
        train_rows=len(train_rows),
        expected=Extrapolation.model_validate(pilot.facts["expected"]) if pilot.facts["expected"] else None,
    )
    page = ladder_page(spec.name, spec.description, made)
    (context.out / "ladder.html").write_text(page_html(page), "utf-8")
    (context.out / "ladder.md").write_text(page_markdown(page), "utf-8")
    return made.model_dump()


def read_ladder(facts: Mapping[str, Any]) -> Ladder:
    """The ladder of an artifact's facts."""
    return Ladder.model_validate(facts)


def _terms(context: StepContext, answered: Sequence[Answered], train_rows: Sequence[Example]) -> Terms:
    """Costs by the price list, and latencies measured here."""
    spec = context.spec
    prices = load_prices(home=context.store.root.parent, task_folder=context.task.folder)
    base = context.inputs["base_model"].folder
    details = context.inputs["few_shot_baseline"].facts["prompt_details"]
    plain = details.get("zero_shot") or next(iter(details.values()))
    tuned = Call(plain["mean_prompt_tokens"], max(1.0, plain["mean_new_tokens"]))
    parameters = float(model_shape(base).parameters)
    epoch_tokens = len(train_rows) * tuned.tokens
    trained = [
        row["dollars"]
        for row in estimate_prices(epoch_tokens * epochs_of(spec.training), prices.training, parameters)
        if row["dollars"] > 0
    ]
    return Terms(
        dollars={of.name: _dollars(spec, prices, of) for of in answered},
        latency=_latencies(context, answered, train_rows),
        training=min(trained, default=None),
        tuned=tuned,
        tuned_dollars=_own_dollars(spec, prices, tuned),
    )


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


def _latencies(
    context: StepContext, answered: Sequence[Answered], train_rows: Sequence[Example]
) -> dict[str, tuple[float, float]]:
    """(p50, p95) in milliseconds of one call by rung: of language models in a child process, of simple models here."""
    spec, baseline = context.spec, context.inputs["few_shot_baseline"]
    prompts = {name: of for name, of in read_json(baseline.path(PROMPTS)).items() if not of.get("api")}
    search = context.inputs["prompt_search"]
    shown = {"prompt": baseline.facts["best"]} if baseline.facts["best"] in prompts else {}
    if nearest := next((name for name in prompts if name.endswith("_nearest")), None):
        shown["retrieve"] = nearest
    asked = {rung: prompts[name] for rung, name in shown.items()}
    if search.facts["best"]:
        asked[OPTIMISED] = read_json(search.path(PROMPTS))[search.facts["best"]]
    folder = context.builder.work / "latency"
    folder.mkdir(parents=True, exist_ok=True)
    context.launch(
        latency_job(
            model=context.inputs["base_model"].folder,
            prompts=asked,
            examples=split_file(context, "validation"),
            train=split_file(context, "train"),
            max_new_tokens=spec.answer_length,
            precision=spec.evaluation.precision,
            calls=LATENCY_CALLS,
            out=folder,
        )
    )
    measured = read_json(folder / "measured.json")["latency"]
    found = {rung: (float(of["p50"]), float(of["p95"])) for rung, of in measured.items()}
    found |= {f"{rung}_restricted": taken for rung, taken in found.items()}
    texts = [e.user_text for e in validation_rows(context)[: LATENCY_CALLS + 1]]
    for of in answered:
        if of.kind == "simple":
            model = SIMPLE_MODELS[of.name]().fit(
                [e.user_text for e in train_rows], [e.answer for e in train_rows], spec.output, spec.split.seed
            )
            taken = sorted(_milliseconds(model.predict, [text]) for text in texts)
            found[of.name] = (taken[len(taken) // 2], taken[-1])
    return found


def _milliseconds(call: Callable[[Sequence[str]], Any], texts: Sequence[str]) -> float:
    began = time.perf_counter()
    call(texts)
    return round(1000 * (time.perf_counter() - began), 2)
