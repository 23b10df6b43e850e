"""TRAINING: plan, adapter, merged model."""

from __future__ import annotations

from typing import Any

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.engine.store import read_json
from finetune_pipeline.findings import FindingsError, errors
from finetune_pipeline.planning.plan import training_plan
from finetune_pipeline.planning.throughput import record_training
from finetune_pipeline.report.page import page_markdown
from finetune_pipeline.report.plan_page import plan_page
from finetune_pipeline.steps.baseline import answer_length
from finetune_pipeline.steps.data import split_file
from finetune_pipeline.trainers import TrainingOrder, preflight, train
from finetune_pipeline.worker.jobs import merge_job


def make_training_plan(work: StepContext) -> dict[str, Any]:
    if wrong := errors(preflight(work.spec, work.task.folder, work.inputs["base_model"].folder)):
        raise FindingsError(wrong)
    plan = training_plan(
        work.spec,
        work.inputs["base_model"].folder,
        read_examples(split_file(work, "train")),
        read_examples(split_file(work, "validation")),
        work.out,
        home=work.store.root.parent,
        task_folder=work.task.folder,
    )
    facts = plan.facts()
    return {**facts, "plan_markdown": page_markdown(plan_page(facts))}


def make_adapter(work: StepContext) -> dict[str, Any]:
    plan = work.inputs["training_plan"].facts
    planned = plan["memory_mib"]["needed"] * 2**20  # by which several devices choose how to share it
    order = TrainingOrder(
        work.spec,
        base=work.inputs["base_model"].folder,
        train=split_file(work, "train"),
        validation=split_file(work, "validation"),
        out=work.out,
        work=work.builder.work,
        launch=lambda job: work.launch({**job, "memory_bytes": planned}),
    )
    facts = train(order)
    # so that the next plan knows how fast this machine trains
    measured = read_json(work.out / "measured.json")
    record_training(work.store.root.parent, work.spec.base_model, plan, facts, measured)
    return facts


def make_merged_model(work: StepContext) -> dict[str, Any]:
    return work.launch(
        merge_job(
            base=work.inputs["base_model"].folder,
            adapter=work.inputs["adapter"].path("adapter"),
            examples=split_file(work, "validation"),
            labels=work.spec.labels,
            max_new_tokens=answer_length(work.spec),
            batch_size=work.spec.baseline.batch_size,
            out=work.out,
        )
    )
