"""TRAINING: plan, adapter, merged model."""

from __future__ import annotations

from typing import Any

from finetune_pipeline.data.examples import examples_of, read_examples
from finetune_pipeline.engine.step import Step, Work
from finetune_pipeline.engine.store import read_json
from finetune_pipeline.findings import FindingsError, errors
from finetune_pipeline.planning.plan import training_plan
from finetune_pipeline.planning.preflight import preflight
from finetune_pipeline.planning.throughput import record_training
from finetune_pipeline.report.page import page_markdown
from finetune_pipeline.report.plan_page import plan_page
from finetune_pipeline.steps.baseline import answer_length
from finetune_pipeline.training.phases import train_adapter
from finetune_pipeline.worker.jobs import merge_job


def make_training_plan(work: Work) -> dict[str, Any]:
    if wrong := errors(preflight(work.spec, work.task.folder, work.inputs["base_model"].folder)):
        raise FindingsError(wrong)
    splits = work.inputs["splits"].folder
    plan = training_plan(
        work.spec,
        work.inputs["base_model"].folder,
        read_examples(examples_of(splits, "train")),
        read_examples(examples_of(splits, "validation")),
        work.out,
        home=work.store.root.parent,
        task_folder=work.task.folder,
    )
    facts = plan.facts()
    return {**facts, "plan_markdown": page_markdown(plan_page(facts))}


def make_adapter(work: Work) -> dict[str, Any]:
    splits, plan = work.inputs["splits"].folder, work.inputs["training_plan"].facts
    planned = plan["memory_mib"]["needed"] * 2**20  # by which several devices choose how to share it
    facts = train_adapter(
        lambda job: work.launch({**job, "memory_bytes": planned}),
        base=work.inputs["base_model"].folder,
        train=examples_of(splits, "train"),
        validation=examples_of(splits, "validation"),
        settings=work.spec.training.model_dump(),
        out=work.out,
        work=work.builder.work,
    )
    # so that the next plan knows how fast this machine trains
    measured = read_json(work.out / "measured.json")
    record_training(work.store.root.parent, work.spec.base_model, plan, facts, measured)
    return facts


def make_merged_model(work: Work) -> dict[str, Any]:
    return work.launch(
        merge_job(
            base=work.inputs["base_model"].folder,
            adapter=work.inputs["adapter"].path("adapter"),
            examples=examples_of(work.inputs["splits"].folder, "validation"),
            labels=work.spec.labels,
            max_new_tokens=answer_length(work.spec),
            batch_size=work.spec.baseline.batch_size,
            out=work.out,
        )
    )


STEPS = [
    Step("training_plan", ("splits", "base_model"), "3", lambda s, w: s.training.model_dump(), make_training_plan),
    # after the advice: its gate decides whether training happens at all, but not what training makes
    Step(
        "adapter",
        ("splits", "base_model"),
        "2",
        lambda s, w: s.training.model_dump(),
        make_adapter,
        after=("advice", "training_plan"),
    ),
    Step(
        "merged_model",
        ("adapter", "base_model", "splits"),
        "3",
        lambda s, w: [s.labels, answer_length(s), s.baseline.batch_size],
        make_merged_model,
    ),
]
