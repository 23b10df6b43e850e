"""``finetune plan TASK``: tokens, memory and costs of training and serving, and whether it fits."""

import datetime
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import click

from finetune_pipeline.baseline.decision import Advised
from finetune_pipeline.cli.output import DONE, ERROR, REFUSED, as_json, get_task, problem, say, tell, writing
from finetune_pipeline.data.examples import Example, examples_of, read_examples
from finetune_pipeline.data.split.placement import expected_rows
from finetune_pipeline.data.split.splitting import SplitFacts
from finetune_pipeline.engine.step import RunInputs
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.predictions import API
from finetune_pipeline.evaluation.prompts import Retriever, conversations, prompt_without_labels, prompts_to_try
from finetune_pipeline.evaluation.rivals import Baseline
from finetune_pipeline.evaluation.wording import dollars_range, duration
from finetune_pipeline.findings import Finding, as_rows, errors
from finetune_pipeline.jobs import Job
from finetune_pipeline.models.identity import model_folder, model_kind
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.planning.costs import task_costs
from finetune_pipeline.planning.gate_needs import obstacles
from finetune_pipeline.planning.memory import bytes_of
from finetune_pipeline.planning.plan import TrainingPlan, training_plan
from finetune_pipeline.planning.power import Power, power_bounds
from finetune_pipeline.planning.prices import load_prices
from finetune_pipeline.planning.serving_costs import Call, Traffic
from finetune_pipeline.planning.tokens import TokenCounter
from finetune_pipeline.report.costs_page import costs_lines, costs_page
from finetune_pipeline.report.page import page_html
from finetune_pipeline.report.training_pages import PARTS, file_size
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import Task
from finetune_pipeline.steps.passed_on import measured_shares
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline.steps.training import preferences_to_plan
from finetune_pipeline.trainers import preflight

COUNTED_ROWS = 300
"""Rows whose tokens are counted for the costs of serving."""


@dataclass
class Inputs:
    """The rows of a plan, and their source."""

    train: list[Example]
    validation: list[Example]
    test_rows: int
    source: str


@click.command()
@click.argument("task")
@click.option("--memory", metavar="GIB", help="Plan for this many GiB instead of the free memory.")
@click.option("--costs", is_flag=True, help="Also: training by trainer and method, serving, API against own machine.")
@click.option("--calls-per-month", type=click.IntRange(min=1), help="As --costs, in place of advise.calls_per_month.")
@as_json
def plan(task: str, memory: str | None, costs: bool, calls_per_month: int | None) -> int:
    """Plan the training of TASK: tokens, steps, memory, cost, and whether it fits.

    Uses the splits if they exist, else the raw data. Exit code 2: it does not fit; the nearest plan that fits is
    shown as lines for task.yaml. Prices come from prices.yaml in the task's folder, in FINETUNE_HOME, or the shipped
    list; old and missing ones are named. --costs writes a page with the curves to FINETUNE_HOME/costs.
    """
    loaded, settings = get_task(task), read_settings()
    available = bytes_of(memory, "--memory") if memory else None
    store = ArtifactStore(settings.artifacts)
    if not errors(findings := preflight(loaded.spec, loaded.folder)):
        run_inputs = collect_run_inputs(loaded, None, store)
        base = base_folder(loaded, store, run_inputs)
        findings = preflight(loaded.spec, loaded.folder, base)
    if errors(findings):
        problem(*map(str, findings))
        tell({"task": loaded.name, "fits": None, "findings": as_rows(findings)})
        return ERROR
    inputs = rows_to_plan(loaded, store, run_inputs)
    training = training_plan(
        loaded.spec,
        base,
        inputs.train,
        inputs.validation,
        home=settings.home,
        task_folder=loaded.folder,
        available=available,
        preferences=preferences_to_plan(PIPELINE.find("preference_rows", loaded, run_inputs, store), loaded),
    )
    facts = training.to_json() | {"task": loaded.name, "source": inputs.source, "findings": as_rows(findings)}
    # from the measured baseline if there is one
    advice = PIPELINE.find("advice", loaded, run_inputs, store)
    if advice:
        power: Power = advice.read(Advised).power
    else:
        hindering = obstacles(loaded.spec, inputs.test_rows, [*inputs.train, *inputs.validation])
        power = power_bounds(loaded.spec, inputs.test_rows, hindering)
    facts["power"] = power.to_json()
    result = None
    if costs or calls_per_month:
        traffic = _traffic(loaded, store, run_inputs, TokenCounter(model_folder(base)), inputs, calls_per_month)
        result = task_costs(
            loaded.spec,
            load_prices(home=settings.home, task_folder=loaded.folder),
            traffic,
            training.tokens.total,
            training.parameters,
            datetime.datetime.now(datetime.UTC).date(),
        )
        page = settings.home / "costs" / f"{loaded.name}.html"
        with writing(page):
            page.write_text(page_html(costs_page(result)), "utf-8")
        facts["costs"] = asdict(result) | {"page": str(page)}
    _show(loaded.name, training, inputs.source, findings, power.sentence)
    if result:
        say("", *costs_lines(result), "", f"page: {facts['costs']['page']}")
    tell(facts)
    return DONE if training.fits else REFUSED


def _launch(job: Job) -> dict[str, object]:
    """Run a job under separate locks, so that a plan never waits for a training."""
    from finetune_pipeline.orchestration.resources import Compute

    with tempfile.TemporaryDirectory(prefix="finetune-plan-") as locks:
        return Compute(devices=["cpu"], lock_folder=locks).launch(None, job)


def base_folder(task: Task, store: ArtifactStore, run_inputs: RunInputs) -> Path:
    """The base model's artifact, made now if it is local. Raises ClickException if it must be downloaded."""
    base = PIPELINE.find("base_model", task, run_inputs, store)
    if base is None:
        if model_kind(task.spec.base_model, task.spec.base_revision) == "hub":
            raise click.ClickException(
                f"the base model {task.spec.base_model} is not on this machine yet; `finetune run {task.name} --stage "
                "baseline` fetches it"
            )
        base = PIPELINE.run("base_model", task, run_inputs, store, _launch)
    return base.folder


def rows_to_plan(task: Task, store: ArtifactStore, run_inputs: RunInputs) -> Inputs:
    """The splits if they exist; else rows from the data steps, run now, divided in the splits' proportions."""
    splits = PIPELINE.find("splits", task, run_inputs, store)
    if splits is not None:
        train, validation = (read_examples(examples_of(splits.folder, s)) for s in ("train", "validation"))
        return Inputs(train, validation, splits.read(SplitFacts).counts["test"], f"splits {splits.version}")
    steps = PIPELINE.run_to("reviewed_examples", task, run_inputs, store)
    rows = read_examples(steps["reviewed_examples"].folder)
    if not rows:
        raise click.ClickException(f"{task.name} has no usable row\nfix: see `finetune check {task.name}`")
    random.Random(task.spec.split.seed).shuffle(rows)  # noqa: S311 - a shuffle, no secret
    n_validation, n_test = expected_rows(task.spec, rows)
    rows.sort(key=lambda row: task.spec.split.is_test_file(str(row.source["file"])))  # last, where the test is
    n_train = len(rows) - n_validation - n_test
    source = "raw data, with as many rows as the splits will have"
    return Inputs(rows[:n_train], rows[n_train : n_train + n_validation], n_test, source)


def _traffic(
    task: Task,
    store: ArtifactStore,
    run_inputs: RunInputs,
    counter: TokenCounter,
    inputs: Inputs,
    calls_per_month: int | None,
) -> Traffic:
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
    best = baseline.read(Baseline).best.removeprefix(API) if baseline else ""
    chosen = best if best in prompts else max(prompts, key=lambda name: prompts[name].shots)
    rows = (inputs.validation or inputs.train)[:COUNTED_ROWS]
    retriever = Retriever(inputs.train) if prompts[chosen].retrieved else None
    choices = conversations(rows, prompts[chosen], retriever)
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
        calls=calls_per_month or spec.advise.calls_per_month,
        source=f"{prompt_source}; counted by the base model's tokenizer over {len(rows)} rows",
        passed_on=measured_shares(task, store) if spec.baseline.endpoint else [],
    )


def _show(task: str, plan: TrainingPlan, source: str, findings: Sequence[Finding], power: str) -> None:
    tokens, memory = plan.tokens, plan.memory_mib
    for finding in findings:
        say(f"{finding.severity}: {finding.place}: {finding.message}")
    say(f"{task}: {plan.method} in {plan.precision} on {plan.device}, from {source}")
    say(
        f"rows      {plan.rows} from {plan.train_examples} training examples, {plan.validation_examples} for "
        f"validation; {plan.over_length} longer than {plan.limit} tokens"
    )
    say(
        f"tokens    {tokens.total:,} ({tokens.mean} a row; half up to {tokens.p50}, 99% up to {tokens.p99}, longest "
        f"{tokens.max}); {plan.computed_share:.0%} of them are computed, shared beginnings once a batch"
    )
    say(f"test      {power}")
    for phase in plan.phases:
        say(f"steps     {phase.method}: {phase.steps} in {phase.epochs:g} epochs, {phase.evaluations} validations")
    say(f"trained   {plan.trainable_parameters:,} of {plan.parameters:,} parameters")
    parts = ", ".join(f"{name} {memory[name]:,}" for name in PARTS if memory[name])
    say(f"memory    {memory['total']:,} MiB at the peak ({parts}); {plan.available_mib:,} MiB free")
    for step in plan.others:
        say(f"          {step.step}: {step.needed_mib:,} MiB on {step.device}; {step.available_mib:,} MiB free")
    say("money     from prices.yaml of the task's folder, of FINETUNE_HOME, or the shipped one")
    for price in plan.prices:
        hours = " to ".join(dict.fromkeys(duration(3600 * h) for h in price.hours or ()))
        amount = dollars_range(price.low, price.high) + (f", {hours}" if hours else "")
        say(f"          {price.where}: {amount} (of {price.date})")
    say(f"\n{'method':8} {'trainable':>13} {'memory':>10}  {'fits':4}  {'result':>9}")
    for row in plan.methods:
        fits = "yes" if row.fits else "no"
        say(
            f"{row.method:8} {row.trainable_parameters:>13,} {row.memory_mib:>6,} MiB  {fits:4}  "
            f"{file_size(row.result_bytes):>9}"
        )
    say("")
    if plan.fits:
        say("fits")
        return
    say("does not fit")
    for step in plan.others:
        if not step.fits:
            say(f"  {step.step}: {step.fix}")
    nearest = plan.nearest
    if nearest is None:
        return
    if not nearest.memory_mib:
        say("no setting of task.yaml makes it fit: use a smaller base_model or more memory")
        return
    say(f"\nthe nearest plan that fits ({nearest.memory_mib['total']:,} MiB), for task.yaml:\n{nearest.yaml}")
    for reason in nearest.reasons:
        say(f"  {reason}")
