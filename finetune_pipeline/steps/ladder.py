"""BASELINE, for `finetune ladder`: all rungs together, with costs and latencies, and the answer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from finetune_pipeline.baseline.input_evidence import learnable
from finetune_pipeline.baseline.ladder import OPTIMISED, Answered, Ladder
from finetune_pipeline.baseline.ladder_answer import ladder
from finetune_pipeline.baseline.learnable import prompted_evidence
from finetune_pipeline.baseline.pilot import Point
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.evaluation.predictions import read_by_model
from finetune_pipeline.models.identity import served
from finetune_pipeline.planning.serving_costs import Call
from finetune_pipeline.report.ladder_page import ladder_page
from finetune_pipeline.report.page import page_html, page_markdown
from finetune_pipeline.steps.asked_models import trained_set, while_served
from finetune_pipeline.steps.data import split_file
from finetune_pipeline.steps.rung_terms import rung_terms, timed_prompts
from finetune_pipeline.steps.rungs import PREDICTIONS, answers_job, climbed

TUNED = {
    "tuned": "The tuned model",
    "tuned_retrieve": "The tuned model, retrieval of examples",
    "tuned_documents": "The tuned model, retrieval of passages",
    f"tuned_{OPTIMISED}": "The tuned model, searched prompt",
}


def make_ladder(context: StepContext) -> dict[str, Any]:
    """Put all rungs together: scores, costs, latencies, the answer and what would change it."""
    spec, inputs = context.spec, context.inputs
    answered, pilot = climbed(context), inputs["pilot"]
    # the asset `advice` says this, too, and stops what comes after it in Dagster where it is a no: the ladder goes on
    baseline, search = inputs["few_shot_baseline"], inputs["prompt_search"]
    rows = read_by_model(baseline.path(PREDICTIONS))
    train_rows = read_examples(split_file(context, "train"))
    signal = learnable(spec, train_rows, prompted=prompted_evidence(spec, baseline.facts["best"], rows))
    skipped = {"prompt_search": search.facts["skipped"], "pilot": pilot.facts["skipped"]}
    made = ladder(
        spec,
        answered,
        rung_terms(context, answered, inputs["base_model"].folder, timed_prompts(context)),
        learnable=signal.status != "not_shown",
        points=[Point.model_validate(point) for point in pilot.facts["points"]],
        pilot_rows={float(share): of for share, of in read_by_model(pilot.path(PREDICTIONS)).items()},
        skipped={name: why for name, why in skipped.items() if why},
        train_rows=len(train_rows),
    )
    return _written(context, made)


def _written(context: StepContext, made: Ladder) -> dict[str, Any]:
    """Write the page and give the facts."""
    page = ladder_page(context.task.name, context.spec.description, made)
    (context.out / "ladder.html").write_text(page_html(page), "utf-8")
    (context.out / "ladder.md").write_text(page_markdown(page), "utf-8")
    return made.model_dump()


def make_tuned_rungs(context: StepContext) -> dict[str, Any]:
    """The last rung on the same rows: the tuned model, with the nearest examples, and under the prompt that was found."""
    spec, inputs = context.spec, context.inputs
    before = Ladder.model_validate(inputs["ladder"].facts)
    plain = trained_set(spec, "tuned", inputs["merged_model"], inputs["base_model"])
    shown = {f"tuned_{rung}": of for rung, of in timed_prompts(context).items() if rung != "prompt"}
    asked: dict[str, Mapping[str, Any]] = {"tuned": {}, **shown}
    out = context.builder.work / "answers"
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as services:
        sets = while_served(context, [{**plain, "name": name, "prompt": of} for name, of in asked.items()], services)
        facts = context.launch(answers_job(context, sets, split_file(context, "validation"), out, "tuned_rungs"))
    rows = read_by_model(out / PREDICTIONS)
    tokens = {name: Call(of["mean_prompt_tokens"], of["mean_new_tokens"]) for name, of in facts["sets"].items()}
    tuned = [Answered(name, "tuned", TUNED[name], rows[name], tokens[name]) for name in asked]
    answered = [*climbed(context), *tuned]
    loaded = None if "hosted" in plain else served(inputs["merged_model"], inputs["base_model"])
    terms = rung_terms(context, answered, loaded.model if loaded and not loaded.adapter else None, asked)
    known = {of.name: (of.p50, of.p95) for of in before.rungs if of.p50 is not None and of.p95 is not None}
    made = ladder(
        spec,
        answered,
        replace(terms, latency={**known, **terms.latency}),
        learnable=before.decision != "no_signal",
        points=before.points,
        expected=before.expected,
        skipped=before.skipped,
        train_rows=len(read_examples(split_file(context, "train"))),
    )
    return _written(context, made)
