"""BASELINE, for `finetune advise --measure`: compares all rungs by score, cost and latency, and answers which one to use."""

import datetime
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec

from finetune_pipeline.baseline.input_evidence import learnable, validation_evidence
from finetune_pipeline.baseline.ladder import Answered, Ladder, Terms
from finetune_pipeline.baseline.ladder_decision import ladder
from finetune_pipeline.baseline.learning_curve import Pilot
from finetune_pipeline.baseline.reasons import best_fixed
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.evaluation.costs import SimpleCost
from finetune_pipeline.evaluation.prediction_facts import Predicted
from finetune_pipeline.evaluation.predictions import API, read_by_model
from finetune_pipeline.evaluation.prompts import DOCUMENTS, NEAREST, read_prompts
from finetune_pipeline.evaluation.rivals import Baseline
from finetune_pipeline.jobs import LatencyJob, Prompt
from finetune_pipeline.models.identity import model_folder, served
from finetune_pipeline.planning.costs import training_costs
from finetune_pipeline.planning.prices import PriceList, load_prices, newest_price
from finetune_pipeline.planning.serving_costs import Call, call_on_machine, call_price
from finetune_pipeline.planning.shape import model_shape
from finetune_pipeline.report.ladder_page import ladder_page
from finetune_pipeline.report.page import page_html, page_markdown
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.steps.asked_models import trained_set, while_served
from finetune_pipeline.steps.baseline import passages_file, simple_costs
from finetune_pipeline.steps.data import split_file
from finetune_pipeline.steps.rungs import (
    PREDICTIONS,
    answered_rungs,
    answers_job,
    call_of,
    row_sources,
)
from finetune_pipeline.steps.teacher import dollars_of_row

Prompts = Mapping[str, Prompt]
Latencies = dict[str, tuple[float, float]]
LATENCY_CALLS = 12
"""Measured calls per rung."""
TUNED = {
    "tuned": "The tuned model",
    "tuned_retrieve": "The tuned model, retrieval of examples",
    "tuned_documents": "The tuned model, retrieval of passages",
}


def make_ladder(context: StepContext) -> Ladder:
    """Combine all rungs: scores, costs, latencies, the answer and what would change it."""
    spec, inputs = context.spec, context.inputs
    answered, pilot, baseline = answered_rungs(context), inputs["pilot"].read(Pilot), inputs["few_shot_baseline"]
    pilot_rows = read_by_model(inputs["pilot"].path(PREDICTIONS))
    rows = read_by_model(baseline.path(PREDICTIONS))
    train_rows, sources = read_examples(split_file(context, "train")), row_sources(context)
    # computed again, not read from the asset `advice`: its failed check would stop the ladder in Dagster
    signal = learnable(spec, train_rows, validation_evidence(spec, baseline.read(Baseline).best, rows, sources))
    result = ladder(
        spec,
        answered,
        rung_terms(context, answered, inputs["base_model"].folder, timed_prompts(context)),
        learnable=signal.status != "not_shown",
        points=pilot.points,
        pilot_rows={float(share): rows for share, rows in pilot_rows.items()},
        skipped={"pilot": pilot.skipped} if pilot.skipped else {},
        train_rows=len(train_rows),
        sources=sources,
    )
    return _write_ladder(context, result)


def _write_ladder(context: StepContext, result: Ladder) -> Ladder:
    page = ladder_page(context.task.name, context.spec.description, result)
    (context.out / "ladder.html").write_text(page_html(page), "utf-8")
    (context.out / "ladder.md").write_text(page_markdown(page), "utf-8")
    return result


def make_tuned_rungs(context: StepContext) -> Ladder:
    """Evaluate the last rung on the same rows: the tuned model, also with the nearest examples or passages."""
    spec, inputs = context.spec, context.inputs
    earlier_ladder = inputs["ladder"].read(Ladder)
    tuned_set = trained_set(spec, "tuned", inputs["merged_model"], inputs["base_model"], spec.decoded_schema)
    tuned_prompts = {f"tuned_{rung}": p for rung, p in timed_prompts(context).items() if rung != "prompt"}
    prompts = {"tuned": Prompt(), **tuned_prompts}
    out = context.builder.work / "answers"
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as services:
        prompted = [msgspec.structs.replace(tuned_set, name=name, prompt=prompt) for name, prompt in prompts.items()]
        sets = while_served(context, prompted, services)
        facts = context.launch(answers_job(context, sets, split_file(context, "validation"), out, "tuned_rungs"))
    rows = read_by_model(out / PREDICTIONS)
    tokens = {name: call_of(details) for name, details in Predicted.of(facts).sets.items()}
    tuned = [Answered(name, "tuned", TUNED[name], rows[name], tokens[name]) for name in prompts]
    answered = [*answered_rungs(context), *tuned]
    loaded = None if tuned_set.hosted else served(inputs["merged_model"], inputs["base_model"])
    terms = rung_terms(context, answered, loaded.model if loaded and not loaded.adapter else None, prompts)
    latencies = {
        rung.name: (rung.p50, rung.p95)
        for rung in earlier_ladder.rungs
        if rung.p50 is not None and rung.p95 is not None
    }
    result = ladder(
        spec,
        answered,
        replace(terms, latency={**latencies, **terms.latency}),
        learnable=earlier_ladder.decision != "no_signal",
        points=earlier_ladder.points,
        expected=earlier_ladder.expected,
        skipped=earlier_ladder.skipped,
        train_rows=len(read_examples(split_file(context, "train"))),
        sources=row_sources(context),
    )
    return _write_ladder(context, result)


def rung_terms(context: StepContext, answered: Sequence[Answered], model: Path | None, prompts: Prompts) -> Terms:
    """Compute costs and latencies of the rungs.

    Args:
        model: Folder of the model to time with `prompts` (by rung); None: none is timed.
    """
    spec, train_rows = context.spec, read_examples(split_file(context, "train"))
    prices = load_prices(home=context.store.root.parent, task_folder=context.task.folder)
    details = context.inputs["few_shot_baseline"].read(Baseline).prompt_details
    zero_shot = details.get("zero_shot") or next(iter(details.values()))
    tuned = Call(zero_shot.mean_prompt_tokens, max(1.0, zero_shot.mean_new_tokens))
    parameters = float(model_shape(model_folder(context.inputs["base_model"].folder)).parameters)
    today, tokens = datetime.datetime.now(datetime.UTC).date(), round(len(train_rows) * tuned.tokens)
    costs = training_costs(spec, prices, tokens, parameters, today, [spec.training.method])
    costs_of_simple = simple_costs(context.inputs["few_shot_baseline"])
    return Terms(
        dollars={
            rung.name: _dollars_per_1000_calls(spec, prices, rung, costs_of_simple.get(rung.name)) for rung in answered
        },
        latency={
            **{name: (float(cost.p50 or 0), float(cost.p95 or 0)) for name, cost in costs_of_simple.items()},
            **_model_latencies(context, model, prompts),
        },
        training=min((cost.high for cost in costs if cost.high > 0), default=None),
        tuned_dollars=_self_hosted_dollars(spec, prices, tuned),
        teacher_row=dollars_of_row(context),
    )


def timed_prompts(context: StepContext) -> Prompts:
    """Return the base model's prompts by rung: the best fixed one, and the retrieving ones."""
    baseline = context.inputs["few_shot_baseline"]
    prompts = {name: p for name, p in read_prompts(baseline.folder).items() if not name.startswith(API)}
    rung_prompts = {"prompt": prompts[best_fixed(baseline.read(Baseline))]}
    for rung, suffix in (("retrieve", NEAREST), ("documents", DOCUMENTS)):
        if prompt := next((p for name, p in prompts.items() if name.endswith(suffix)), None):
            rung_prompts[rung] = prompt
    return rung_prompts


def _dollars_per_1000_calls(
    spec: TaskSpec, prices: PriceList, answered: Answered, simple: SimpleCost | None
) -> float | None:
    if answered.call is None:
        seconds = float(simple.p50 or 0) if simple else 0.0  # of a thousand calls, one after the other
        return min((machine.price * seconds / 3600 for machine in prices.machines), default=0.0)
    if answered.kind != "api":
        return _self_hosted_dollars(spec, prices, answered.call)
    model = spec.baseline.endpoint.model if spec.baseline.endpoint else ""
    price = newest_price((price for price in prices.apis if not price.tuned), model)
    return 1000 * call_price(price, answered.call) if price else None


def _self_hosted_dollars(spec: TaskSpec, prices: PriceList, call: Call) -> float | None:
    """Return the dollars per 1,000 self-hosted calls: at the task's token price, else on the cheapest machine of the list."""
    if spec.advise.dollars_per_million_tokens is not None:
        return call.tokens * spec.advise.dollars_per_million_tokens / 1000
    return min((1000 * call_on_machine(machine, call) for machine in prices.machines), default=None)


def _model_latencies(context: StepContext, model: Path | None, prompts: Prompts) -> Latencies:
    """Measure (p50, p95) in milliseconds of one call with each prompt, in a child process.

    Each also counts for the same prompt with constrained answers, which take as long.
    """
    spec = context.spec
    if model is None:
        return {}
    folder = context.builder.work / "latency"
    folder.mkdir(parents=True, exist_ok=True)
    context.launch(
        LatencyJob(
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
    latencies = {rung: (float(timing["p50"]), float(timing["p95"])) for rung, timing in measured.items()}
    return latencies | {f"{rung}_restricted": latency for rung, latency in latencies.items()}
