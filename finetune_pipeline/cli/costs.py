"""``finetune costs TASK``: costs of training and serving, and the volume at which your own machine is cheaper than an API."""

import datetime
from dataclasses import asdict, replace
from statistics import fmean

import click

from finetune_pipeline.cli.output import DONE, as_json, get_task, tell, writing
from finetune_pipeline.cli.plan import Inputs, base_folder, rows_to_plan
from finetune_pipeline.engine.step import RunInputs
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.predictions import API
from finetune_pipeline.evaluation.prompts import Retriever, conversations, prompt_without_labels, prompts_to_try
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.planning.costs import task_costs
from finetune_pipeline.planning.prices import load_prices
from finetune_pipeline.planning.serving_costs import Call, Traffic
from finetune_pipeline.planning.shape import model_shape
from finetune_pipeline.planning.tokens import TokenCounter
from finetune_pipeline.report.costs_page import costs_lines, costs_page
from finetune_pipeline.report.page import page_html
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import Task
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline.training.rows import training_examples

COUNTED_ROWS = 300
"""Rows whose tokens are counted."""


@click.command()
@click.argument("task")
@click.option("--calls-per-month", type=click.IntRange(min=1), help="In place of advise.calls_per_month.")
@as_json
def costs(task: str, calls_per_month: int | None) -> int:
    """Show the costs of TASK: training by trainer and method, serving by an API or your own machine, and the break-even.

    Prices come from prices.yaml in the task's folder, in FINETUNE_HOME, or the shipped list. Old and missing ones are named.
    The page with the curves is written to FINETUNE_HOME/costs.
    """
    loaded, settings = get_task(task), read_settings()
    store = ArtifactStore(settings.artifacts)
    run_inputs = collect_run_inputs(loaded, None, store)
    folder = model_folder(base_folder(loaded, store, run_inputs))
    rows, counter = rows_to_plan(loaded, store, run_inputs), TokenCounter(folder)
    traffic = _traffic(loaded, store, run_inputs, counter, rows)
    result = task_costs(
        loaded.spec,
        load_prices(home=settings.home, task_folder=loaded.folder),
        replace(traffic, calls=calls_per_month or loaded.spec.advise.calls_per_month),
        sum(
            counter.count(e.messages, tools=e.tools)
            for e in training_examples(rows.train, loaded.spec.training.model_dump())
        ),
        model_shape(folder).parameters,
        datetime.datetime.now(datetime.UTC).date(),
    )
    page = settings.home / "costs" / f"{loaded.name}.html"
    with writing(page):
        page.write_text(page_html(costs_page(result)), "utf-8")
    lines = [f"{loaded.name}, from {rows.source}", *costs_lines(result), "", f"page: {page}"]
    tell({**asdict(result), "page": str(page)}, *lines)
    return DONE


def _traffic(task: Task, store: ArtifactStore, run_inputs: RunInputs, counter: TokenCounter, inputs: Inputs) -> Traffic:
    """Count the mean tokens of calls over rows of the validation split, with the tokenizer of the base model.

    The prompt of an API model is the baseline's best one if known, else the one with the most examples.
    """
    spec = task.spec
    try:
        prompts = prompts_to_try(
            inputs.train,
            shots=spec.baseline.shots,
            retrieved=spec.baseline.retrieved,
            labels=spec.labels,
            seed=spec.baseline.seed,
            system_prompt=spec.system_prompt,
            others=spec.baseline.prompts,
            without_labels=prompt_without_labels(spec),
        )
    except ValueError as error:
        raise click.ClickException(f"{task.name}: {error}\nfix: add rows, or lower baseline.shots") from error
    baseline = PIPELINE.find("few_shot_baseline", task, run_inputs, store)
    best = str(baseline.facts["best"]).removeprefix(API) if baseline else ""
    chosen = best if best in prompts else max(prompts, key=lambda name: prompts[name].shots)
    rows = (inputs.validation or inputs.train)[:COUNTED_ROWS]
    retriever = Retriever(inputs.train) if prompts[chosen].retrieved else None
    choices = conversations(rows, asdict(prompts[chosen]), retriever)
    prompt_tokens = [counter.count(e.prompt_messages, True, e.tools) for e in rows]
    total_tokens = [counter.count(e.messages, tools=e.tools) for e in rows]
    prompted_tokens = [counter.count(candidates[0], True, e.tools) for e, candidates in zip(rows, choices, strict=True)]
    answer = fmean(max(total - prompt, 1) for total, prompt in zip(total_tokens, prompt_tokens, strict=True))
    instead = f"the best one, {best}, is not counted here" if best else "no baseline is made yet"
    prompt_source = (
        "the best prompt on validation" if chosen == best else f"the prompt with the most examples: {instead}"
    )
    return Traffic(
        tuned=Call(fmean(prompt_tokens), answer),
        prompted=Call(fmean(prompted_tokens), answer),
        prompt=chosen,
        calls=None,
        source=f"{prompt_source}; counted by the base model's tokenizer over {len(rows)} rows",
    )
