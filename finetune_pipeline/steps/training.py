"""TRAINING: plan, adapter, merged model."""

from dataclasses import asdict
from typing import Any

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.findings import FindingsError, errors
from finetune_pipeline.models.hosted import pass_on, read_hosted
from finetune_pipeline.planning.plan import training_plan
from finetune_pipeline.planning.throughput import record_training
from finetune_pipeline.report.page import page_markdown
from finetune_pipeline.report.training_pages import plan_page
from finetune_pipeline.steps.data import split_file
from finetune_pipeline.trainers import TRAINERS, TrainingOrder, preflight, train
from finetune_pipeline.worker.jobs import merge_job


def make_training_plan(context: StepContext) -> dict[str, Any]:
    if blocking := errors(preflight(context.spec, context.task.folder, context.inputs["base_model"].folder)):
        raise FindingsError(blocking)
    plan = training_plan(
        context.spec,
        context.inputs["base_model"].folder,
        read_examples(split_file(context, "train")),
        read_examples(split_file(context, "validation")),
        context.out,
        home=context.store.root.parent,
        task_folder=context.task.folder,
    )
    facts = asdict(plan)
    return {**facts, "plan_markdown": page_markdown(plan_page(facts))}


def make_adapter(context: StepContext) -> dict[str, Any]:
    plan = context.inputs["training_plan"].facts
    memory_bytes = plan["memory_mib"]["needed"] * 2**20  # used to choose how to share it among several devices
    order = TrainingOrder(
        context.spec,
        base=context.inputs["base_model"].folder,
        train=split_file(context, "train"),
        validation=split_file(context, "validation"),
        out=context.out,
        work=context.builder.work,
        launch=lambda job: context.launch({**job, "memory_bytes": memory_bytes}),
        home=context.store.root.parent,
        task_folder=context.task.folder,
        tick=lambda: context.follow(context.builder.work),
    )
    facts = train(order)
    if hosted := read_hosted(context.out):
        return {**facts, "endpoint": hosted.model_dump()}
    if TRAINERS[context.spec.training.trainer].on_this_machine:  # so that the next plan knows the speed
        measured = read_json(context.out / "measured.json")
        record_training(context.store.root.parent, context.spec.base_model, plan, facts, measured)
    return facts


def make_merged_model(context: StepContext) -> dict[str, Any]:
    """Merge the adapter and compare the result with the trained model; a hosted model is passed on unchanged."""
    adapter, spec = context.inputs["adapter"], context.spec
    if hosted := read_hosted(adapter.folder):
        settings = {"system_prompt": spec.system_prompt, "labels": spec.labels, "max_new_tokens": spec.answer_length}
        return pass_on(hosted, adapter.folder, context.out, settings)
    return context.launch(
        merge_job(
            base=context.inputs["base_model"].folder,
            adapter=adapter.path("adapter"),
            examples=split_file(context, "validation"),
            labels=spec.labels,
            max_new_tokens=spec.answer_length,
            batch_size=spec.baseline.batch_size,
            precision=spec.evaluation.precision,
            out=context.out,
        )
    )
